"""Notes by a synchronous session whose dependency ends, with its COMMIT, before the answer."""

import os
import tempfile
from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


folder = tempfile.TemporaryDirectory()
engine = create_engine(f"sqlite:///{os.path.join(folder.name, 'notes.db')}")
Base.metadata.create_all(engine)
app = FastAPI()


class NoteIn(BaseModel):
    text: str


def unit_of_work() -> Iterator[Session]:
    with Session(engine) as session, session.begin():
        yield session


@app.post("/notes", status_code=201)
def write(
    note: NoteIn, session: Annotated[Session, Depends(unit_of_work, scope="function")]
) -> dict[str, int]:
    stored = Note(text=note.text)
    session.add(stored)
    session.flush()
    return {"id": stored.id}
