"""The app is started with the environment that it was given, and the agent besides."""

import time
from pathlib import Path

from stormproof.prove import ProveOptions
from stormproof.prove._play import play
from stormproof.prove.attacks import baseline

APP = """
import elsewhere
from fastapi import FastAPI
app = FastAPI()
@app.get("/")
async def root() -> int:
    return elsewhere.VALUE
"""


async def test_pythonpath_that_was_given_is_kept_beside_the_agents(tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "elsewhere.py").write_text("VALUE = 7")
    (tmp_path / "main.py").write_text(APP)
    options = ProveOptions(
        app="main:app",
        directory=tmp_path,
        is_quick=True,
        environment={"PYTHONPATH": str(library)},
    )
    record, scene = await play(baseline.ATTACK, options=options, routes=(), zero=time.monotonic())
    assert record.problem == ""
    assert [route.id for route in scene.of_kind("plain")] == ["GET /"]
    assert scene.agent is not None
