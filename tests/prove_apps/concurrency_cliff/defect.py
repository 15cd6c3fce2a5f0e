"""Items by sync sessions from a dependency, a user by another: 15 connections, 40 threads."""

import os
from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

engine = create_engine(
    os.environ.get("DATABASE_URL", "postgresql://").replace("://", "+psycopg://", 1)
)


def get_db() -> Iterator[Session]:
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
