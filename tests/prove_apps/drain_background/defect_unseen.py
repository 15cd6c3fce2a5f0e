"""Notes are written by a thread of its own, whose queue dies with the process."""

import os
import queue
import threading
import time
from pathlib import Path
from uuid import uuid4

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

NOTES = Path(os.environ["NOTES"])


class Note(BaseModel):
    text: str


waiting: queue.Queue[tuple[str, str]] = queue.Queue()


def write_all() -> None:
    while True:
        id, text = waiting.get()
        time.sleep(0.2)
        (NOTES / id).write_text(text)


threading.Thread(target=write_all, daemon=True).start()
app = FastAPI()


@app.post("/notes", status_code=202)
async def write(note: Note) -> dict[str, str]:
    id = uuid4().hex
    waiting.put((id, note.text))
    return {"id": id}


@app.get("/notes/{id}")
async def read(id: str) -> Note:
    path = NOTES / Path(id).name
    if not path.is_file():
        raise HTTPException(404)
    return Note(text=path.read_text())
