"""What `install()` gives an app, and what it refuses."""

import asyncio
import contextvars
import threading
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response
from fastapi.testclient import TestClient
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

import stormproof
from stormproof._core.lifecycle import Lifecycle, Loss
from stormproof._core.running import Running
from stormproof.errors import AlreadyInstalled, InvalidSetting, LimitExceeded


class NotingPart:
    """A part that writes down what is done to it."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name = name
        self.notes = notes

    async def open(self, lifecycle: Lifecycle) -> None:
        self.notes.append(f"open {self.name}")

    async def drain(self, until: float) -> Sequence[Loss]:
        self.notes.append(f"drain {self.name}")
        return ()

    async def close(self) -> None:
        self.notes.append(f"close {self.name}")


def test_parts_surround_the_apps_own_lifespan() -> None:
    notes: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        notes.append("start app")
        yield {"from": "lifespan"}
        notes.append("stop app")

    app = FastAPI(lifespan=lifespan)

    @app.get("/state")
    async def state(request: Request) -> str:
        return str(request.state["from"])

    stormproof.install(app, NotingPart("a", notes), NotingPart("b", notes))
    for _ in range(2):  # the same app may be served again
        notes.clear()
        with TestClient(app) as client:
            assert client.get("/state").json() == "lifespan"
        assert notes == [
            "open a",
            "open b",
            "start app",
            "drain b",
            "drain a",
            "stop app",
            "close b",
            "close a",
        ]  # fmt: skip


def test_failed_start_of_the_app_closes_the_parts() -> None:
    notes: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        raise RuntimeError("no start")
        yield

    app = FastAPI(lifespan=lifespan)
    stormproof.install(app, NotingPart("a", notes))
    with pytest.raises(RuntimeError, match="no start"), TestClient(app):
        pass
    assert notes == ["open a", "close a"]


def test_health_routes_are_answered_outside_of_the_apps_middleware() -> None:
    app = FastAPI()
    stormproof.install(app)

    async def refuse(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return Response(status_code=401)

    app.add_middleware(BaseHTTPMiddleware, dispatch=refuse)
    with TestClient(app) as client:
        assert client.get("/anything").status_code == 401
        for path in ("/livez", "/readyz", "/startupz"):
            answer = client.get(path)
            assert answer.status_code == 200
            assert answer.json() == {"status": "ok", "phase": "ready"}
            assert answer.headers["cache-control"] == "no-store"


def test_health_route_of_the_app_is_left_to_it() -> None:
    app = FastAPI()

    @app.get("/livez")
    async def livez() -> str:
        return "mine"

    stormproof.install(app)
    with TestClient(app) as client:
        assert client.get("/livez").json() == "mine"
        assert client.get("/readyz").json()["phase"] == "ready"


def test_deadline_covers_middleware_that_was_added_later() -> None:
    app = FastAPI()
    stormproof.install(app, deadline=0.05)

    async def hang(request: Request, call_next: RequestResponseEndpoint) -> Response:
        await asyncio.sleep(60)
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=hang)
    with TestClient(app) as client:
        answer = client.get("/anything")
    assert (answer.status_code, answer.json()["code"]) == (504, "SP301")
    assert answer.headers["content-type"] == "application/problem+json"


def test_malformed_timeout_header_is_400_and_runs_nothing() -> None:
    app = FastAPI()
    ran: list[bool] = []

    @app.get("/")
    async def endpoint() -> None:
        ran.append(True)

    stormproof.install(app)
    with TestClient(app) as client:
        answer = client.get("/", headers={"X-Request-Timeout": "soon"})
    assert (answer.status_code, answer.json()["code"]) == (400, "SP108")
    assert "'soon'" in answer.json()["detail"]
    assert ran == []


def test_error_of_ours_becomes_problem_json_with_retry_after() -> None:
    app = FastAPI()

    @app.get("/")
    async def endpoint() -> None:
        raise LimitExceeded("limit 'x' is full", retry_after=0.2)

    stormproof.install(app)
    with TestClient(app) as client:
        answer = client.get("/")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json() == {
        "type": "urn:stormproof:error:SP201",
        "title": "Too busy",
        "status": 503,
        "detail": "limit 'x' is full",
        "code": "SP201",
        "reason": "queue",
    }


def test_openapi_names_the_problems_and_leaves_what_the_app_says() -> None:
    app = FastAPI()

    @app.get("/", responses={504: {"description": "mine"}})
    async def endpoint() -> None: ...

    @app.post("/", responses={"5XX": {"description": "all mine"}, "default": {"description": "?"}})
    async def post() -> None: ...

    stormproof.install(app)
    for _ in range(2):
        schema = app.openapi()
        responses = schema["paths"]["/"]["get"]["responses"]
        problem = responses["503"]["content"]["application/problem+json"]["schema"]
        assert problem == {"$ref": "#/components/schemas/StormproofProblem"}
        assert "code" in schema["components"]["schemas"]["StormproofProblem"]["required"]
        assert responses["503"]["headers"].keys() == {"Retry-After"}
        assert responses["504"]["description"] == "mine"
        assert schema["paths"]["/"]["post"]["responses"].keys() == {"200", "5XX", "default"}


def test_openapi_names_429_where_a_rate_limit_counts() -> None:
    app, login = FastAPI(), APIRouter(prefix="/login")
    quota = stormproof.RateLimit(5, per=60)

    @login.post("/{name}")
    @login.get("/{name}")
    async def log_in(name: str) -> None: ...

    @app.get("/search", dependencies=[stormproof.rate_limit(quota)])
    async def search() -> None: ...

    @app.get("/free")
    async def free() -> None: ...

    @app.post("/search", responses={"4XX": {"description": "mine"}})
    async def store() -> None: ...

    app.include_router(login, prefix="/v1", dependencies=[stormproof.rate_limit(quota)])
    app.add_api_route("/reports/{number}", free)
    rules = [stormproof.AdmissionRule(prefix="/reports", rate=quota)]
    stormproof.install(app, admission=stormproof.Admission(rules=rules))
    told = {
        f"{method} {path}": operation["responses"]
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
    }
    assert {name for name, responses in told.items() if "429" in responses} == {
        "get /v1/login/{name}",
        "post /v1/login/{name}",
        "get /search",
        "get /reports/{number}",
    }
    headers = told["get /search"]["429"]["headers"]
    assert headers.keys() == {"Retry-After", "RateLimit", "RateLimit-Policy"}


def test_second_install_is_refused() -> None:
    app = FastAPI()
    stormproof.install(app)
    with pytest.raises(AlreadyInstalled, match="twice"):
        stormproof.install(app)


def test_install_on_an_app_that_has_started_is_refused() -> None:
    app = FastAPI()
    with TestClient(app) as client:
        client.get("/")
        with pytest.raises(AlreadyInstalled, match="before the app serves"):
            stormproof.install(app)


def test_what_is_no_part_or_no_app_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="str, which has no open, drain and close"):
        stormproof.install(FastAPI(), "database")  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="wants a FastAPI app; got dict"):
        stormproof.install({})  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="route_deadline"):
        stormproof.route_deadline(-1.0)


def test_door_holds_what_it_lists() -> None:
    for name in stormproof.__all__:
        assert getattr(stormproof, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        stormproof.nothing  # noqa: B018


def test_a_context_that_outlives_the_request_keeps_none_of_its_task() -> None:
    """uvicorn's keep-alive timer is such a context: one for each idle connection."""
    app = FastAPI()
    contexts: list[contextvars.Context] = []

    @app.get("/")
    async def endpoint() -> str:
        contexts.append(contextvars.copy_context())
        return "done"

    stormproof.install(app)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    async def main() -> None:
        scope = {
            "type": "http", "method": "GET", "path": "/", "raw_path": b"/", "root_path": "",
            "query_string": b"", "headers": [], "http_version": "1.1", "scheme": "http",
        }  # fmt: skip
        task = asyncio.create_task(app(scope, receive, send))
        await task
        gone = weakref.ref(task)
        del task
        await asyncio.sleep(0)
        assert len(contexts) == 1
        assert gone() is None

    asyncio.run(main())


def test_each_loop_and_each_thread_finds_its_own_running_task() -> None:
    """Two servers of one app at once, and one after the other in the same thread."""
    running, found = Running(), []

    async def look() -> None:
        for _ in range(50):
            found.append(running.task() is asyncio.current_task())
            assert running.loop is not None
            await asyncio.sleep(0)

    threads = [threading.Thread(target=asyncio.run, args=(look(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    asyncio.run(look())
    asyncio.run(look())
    for thread in threads:
        thread.join()
    assert found == [True] * 250
