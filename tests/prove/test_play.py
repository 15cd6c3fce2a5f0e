"""How attacks are played: each with a server of its own, one after another or beside each other."""

import asyncio
import time
from pathlib import Path

from stormproof.prove import ProveOptions
from stormproof.prove._attack import Attack, Scene
from stormproof.prove._play import play
from stormproof.prove._run import _Run
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


async def test_in_a_hurry_what_only_waits_holds_nobody_up(tmp_path: Path) -> None:
    """The drain has nothing but its wait left; the overload, which is timed, need not wait."""
    over = asyncio.Event()

    async def wait(scene: Scene) -> None:
        scene.resting.set()
        await over.wait()

    async def end(scene: Scene) -> None:
        over.set()

    (tmp_path / "main.py").write_text(
        APP.replace("import elsewhere", "").replace("elsewhere.VALUE", "7")
    )
    options = ProveOptions(app="main:app", directory=tmp_path, is_quick=True)
    run = _Run(options=options, on_progress=lambda _: None)
    run.plan = [
        baseline.ATTACK,
        Attack(name="drain", title="waits", seconds=1.0, run=wait),
        Attack(name="overload", title="ends", seconds=1.0, run=end),
        Attack(name="threads", title="no use", seconds=1.0, run=end, fits=lambda _: "no threads"),
    ]
    await run.first_round()
    assert {record.name: record.problem for record in run.records} == dict.fromkeys(
        ("baseline", "overload", "threads", "drain"), ""
    )
    assert [record.unfit for record in run.records if record.name == "threads"] == ["no threads"]
