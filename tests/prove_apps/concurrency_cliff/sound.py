"""Items by sync sessions from a dependency, with an async door as wide as the pool."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

engine = create_engine(
    os.environ.get("DATABASE_URL", "postgresql://").replace("://", "+psycopg://", 1)
)


places = asyncio.Semaphore(15)


async def place() -> AsyncIterator[None]:
    """Wait for a place without a thread and without a connection."""
    async with places:
        yield


def get_db(place: Annotated[None, Depends(place)]) -> Iterator[Session]:
    with Session(engine) as session:
        yield session


DB = Annotated[Session, Depends(get_db)]


def current_user(db: DB) -> str:
    return str(db.execute(text("SELECT 'ada'")).scalar_one())


app = FastAPI()


@app.get("/items")
def items(user: Annotated[str, Depends(current_user)], db: DB) -> dict[str, object]:
    number = db.execute(text("SELECT count(*) FROM generate_series(1, 100)")).scalar_one()
    return {"owner": user, "items": number}
