"""What every agent tells: who it is, the routes, the lifespan, requests, background work."""

from pathlib import Path
from signal import Signals

from .stage import proven

APP = """
import asyncio
from contextlib import asynccontextmanager
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, PlainTextResponse

@asynccontextmanager
async def lifespan(app):
    yield

app = FastAPI(lifespan=lifespan)

def sync_dependency():
    return 1

async def async_dependency():
    return 1

@app.get("/plain")
async def plain(): return {}

@app.get("/def/{x}")
def sync(x: int): return x

@app.get("/hidden", include_in_schema=False)
async def hidden(a=Depends(async_dependency)): return {}

@app.get("/broken")
async def broken(): raise RuntimeError("no")

router = APIRouter(prefix="/r")

@router.get("/in/{y}")
async def included(y: str, d=Depends(sync_dependency)): return y

outer = APIRouter()
outer.include_router(router, prefix="/v2")
outer.add_route("/star/{q}", lambda request: PlainTextResponse("x"))
app.include_router(outer, prefix="/api")
app.include_router(router, prefix="/v1")

below = FastAPI()

@below.get("/deep/{z}")
async def deep(z: str): return z

app.mount("/mnt/{tenant}", below)

@app.middleware("http")
async def middleware(request, call_next): return await call_next(request)

async def fail(): raise RuntimeError("lost")

async def work(): await asyncio.sleep(0.01)

@app.post("/background")
async def background(tasks: BackgroundTasks):
    tasks.add_task(work)
    tasks.add_task(fail)
    tasks.add_task(work)
    return {}

@app.post("/one")
async def one(): return JSONResponse({}, background=BackgroundTask(work))

@app.post("/dropped")
async def dropped(tasks: BackgroundTasks):
    tasks.add_task(work)
    return JSONResponse({}, background=BackgroundTask(work))

@app.post("/refused")
async def refused(tasks: BackgroundTasks):
    tasks.add_task(work)
    raise HTTPException(409)
"""


async def test_the_agent_says_who_it_is_and_all_routes_with_their_places(tmp_path: Path) -> None:
    async with proven(APP, tmp_path) as stage:
        (ready,) = stage.told("ready")
        assert ready.pid == stage.process.pid
        assert ready.facts["loop"].startswith("asyncio.")
        assert ready.facts["thread_limit"] == 40
        assert stage.link.pids == {stage.process.pid}
        (told,) = await stage.hears("routes")
    routes = {f"{r['method']} {r['path']}": r for r in told.facts["routes"]}
    assert {"GET /api/v2/r/in/{y}", "GET /v1/r/in/{y}", "GET /mnt/{tenant}/deep/{z}"} <= set(routes)
    assert "GET /api/star/{q}" in routes
    plain, sync, mixed = routes["GET /plain"], routes["GET /def/{x}"], routes["GET /v1/r/in/{y}"]
    assert (plain["is_async"], plain["has_sync_part"]) == (True, False)
    assert (sync["is_async"], sync["has_sync_part"]) == (False, True)
    assert (mixed["is_async"], mixed["has_sync_part"]) == (True, True)
    assert not routes["GET /hidden"]["in_schema"]
    assert not routes["GET /hidden"]["has_sync_part"]
    assert plain["file"] == str(tmp_path / "app.py")
    assert "/plain" in APP.splitlines()[plain["line"] - 1]
    assert routes["GET /docs"]["kind"] == "builtin"


async def test_requests_are_told_with_the_template_of_their_route(tmp_path: Path) -> None:
    asked = {
        "/plain": "GET /plain",
        "/def/3": "GET /def/{x}",
        "/api/v2/r/in/a": "GET /api/v2/r/in/{y}",
        "/v1/r/in/a": "GET /v1/r/in/{y}",
        "/api/star/a": "GET /api/star/{q}",
        "/mnt/acme/deep/a": "GET /mnt/{tenant}/deep/{z}",
        "/nowhere": "GET (no route)",
    }
    async with proven(APP, tmp_path) as stage:
        for number, path in enumerate(asked):
            await stage.ask("GET", path, number)
        await stage.ask("GET", "/plain")
        told = await stage.hears("request", len(asked))
        await stage.ask("GET", "/broken", 99)
        (broken,) = await stage.hears("request", id=99)
    assert [event.facts["route"] for event in told] == list(asked.values())
    assert [event.facts["status"] for event in told] == [200] * 6 + [404]
    assert all(0 < e.facts["began"] <= e.facts["ended"] <= e.at for e in told)
    assert (broken.facts["how"], broken.facts["status"]) == ("raised", 500)
    assert "no" in broken.facts["error"]


async def test_background_tasks_are_told_from_acceptance_to_their_end(tmp_path: Path) -> None:
    async with proven(APP, tmp_path) as stage:
        for number, path in enumerate(["/background", "/one", "/dropped", "/refused"]):
            await stage.ask("POST", path, number)
        await stage.hears("request", 4)
    steps: dict[int, list[tuple[str, str]]] = {}
    for event in stage.told("background"):
        step = (event.facts["key"], event.facts["what"])
        steps.setdefault(event.facts["id"], []).append(step)
    first, second, third = (f"b{number}" for number in (1, 2, 3))
    assert steps[0] == [
        (first, "accepted"), (second, "accepted"), (third, "accepted"),
        (first, "started"), (first, "finished"), (second, "started"), (second, "failed"),
        (third, "cancelled"),
    ]  # fmt: skip
    assert [what for _, what in steps[1]] == ["accepted", "started", "finished"]
    ends = [what for _, what in steps[2]]
    assert sorted(ends) == ["accepted", "accepted", "cancelled", "finished", "started"]
    assert 3 not in steps


async def test_the_lifespan_is_told_to_its_last_word(tmp_path: Path) -> None:
    async with proven(APP, tmp_path) as stage:
        stage.process.signal(Signals.SIGTERM)
        await stage.process.wait_exit()
        await stage.hears("lifespan", phase="stopped")
    phases = [event.facts["phase"] for event in stage.told("lifespan")]
    assert phases == ["starting", "started", "stopping", "stopped"]


async def test_the_census_counts_and_a_process_that_ended_is_gone(tmp_path: Path) -> None:
    async with proven(APP, tmp_path) as stage:
        census = await stage.link.census()
        assert census["processes"] == 1
        assert census["tasks"] >= 1
        assert census["limiter"] == {"total": 40, "borrowed": 0, "waiting": 0}
        await stage.link.collect()
        stage.process.signal(Signals.SIGKILL)
        await stage.process.wait_exit()
        assert (await stage.link.census(timeout=1.0))["processes"] == 0
        assert stage.link.pids == frozenset()
