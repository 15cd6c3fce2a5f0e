"""Sound: a note is on the disk before its request is answered."""

import os
from pathlib import Path
from uuid import uuid4

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

NOTES = Path(os.environ["NOTES"])


class Note(BaseModel):
    text: str


app = FastAPI()


@app.post("/notes", status_code=202)
def write(note: Note) -> dict[str, str]:
    id = uuid4().hex
    (NOTES / id).write_text(note.text)
    return {"id": id}


@app.get("/notes/{id}")
def read(id: str) -> Note:
    path = NOTES / Path(id).name
    if not path.is_file():
        raise HTTPException(404)
    return Note(text=path.read_text())
