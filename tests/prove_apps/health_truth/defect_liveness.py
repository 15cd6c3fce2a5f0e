"""Notes in SQLite, and a liveness route that asks the database: an empty pool kills the app."""

import asyncio
import os
import tempfile
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

folder = tempfile.TemporaryDirectory()
engine = create_engine(
    f"sqlite:///{os.path.join(folder.name, 'notes.db')}", pool_size=2, pool_timeout=0.5
)
app = FastAPI()


def session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


@app.get("/notes")
def notes(session: Annotated[Session, Depends(session)]) -> dict[str, Any]:
    return {"notes": session.execute(text("SELECT 7")).scalar_one()}


def _ask() -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))


@app.get("/livez")
@app.get("/readyz")
async def health() -> dict[str, str]:
    try:
        await asyncio.to_thread(_ask)
    except Exception as error:
        raise HTTPException(503, "no database") from error
    return {"status": "ok"}
