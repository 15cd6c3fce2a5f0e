"""Where the rooms meet a FastAPI app: `install()` and the dependencies."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

from anyio import to_thread
from fastapi import BackgroundTasks as StarletteTasks
from fastapi import Depends, FastAPI, Request
from fastapi.requests import HTTPConnection
from fastapi.responses import Response
from fastapi.routing import iter_route_contexts

from ._core.asgi import LIFECYCLE_KEY, ASGIApp
from ._core.lifecycle import Lifecycle, Part, Phase
from .deadline import (
    TIMEOUT_HEADER,
    DeadlineMiddleware,
    DeadlineStatistics,
    limit_request,
    thread_of,
)
from .errors import (
    PROBLEM_JSON,
    AlreadyInstalled,
    InvalidSetting,
    NotStarted,
    StormproofError,
    problem_body,
    problem_headers,
)
from .lifecycle import Drain, LifecycleMiddleware, drain_on_signals, opened
from .limit import Adaptive, Admission, AdmissionMiddleware, Limiter, RateLimit
from .settings import load_settings
from .tasks import Batch, ConfiguredTasks, Tasks

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from .database import Database, SyncSession

P = ParamSpec("P")

_STATE = "stormproof_lifecycle"
_DRAIN = "stormproof_drain"
_DEADLINES = "stormproof_deadlines"

_PROBLEM_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "examples": ["SP301"]},
    },
}
_PROBLEM_RESPONSES = {
    "503": "Busy or shutting down; try again after `Retry-After` seconds",
    "504": "The deadline of the request passed",
}


def install(
    app: FastAPI,
    *parts: Part,
    grace: float | None = None,
    prestop: float | None = None,
    deadline: float | None = None,
    deadline_headers: Sequence[str] = (TIMEOUT_HEADER,),
    threads: int | None = None,
    admission: Admission | Limiter | Adaptive | None = None,
) -> Lifecycle:
    """Give `app` a lifecycle: deadlines, health routes, a drain at SIGTERM, problem+json errors.

    To be called once, at any place before the app starts to serve. Works under
    `stormproof serve` and plain `uvicorn` alike; waits for nothing itself.

    Args:
        app: The application; its own lifespan runs inside this one.
        *parts: What opens before the app's own lifespan starts, in this order, and closes
            after it ended, in reverse: `Database`, `Tasks`, `Upstream`, or your own `Part`.
        grace: Seconds from SIGTERM to the end of everything; default 30.
        prestop: Seconds of lame duck at its beginning; default 5.
        deadline: Seconds a request may take to its first byte; default 30.
        deadline_headers: The headers in which callers are trusted to ask for less, as the
            `headers` of `DeadlineMiddleware`.
        threads: How many threads `def` endpoints, `def` dependencies and `run_in_threadpool` may
            have at once, together; None: what AnyIO allows, which is 40.
        admission: What each request needs a slot of before the app sees it; default none.

    What is None comes from `STORMPROOF_GRACE`, `STORMPROOF_PRESTOP`, `STORMPROOF_DEADLINE`,
    then from `[tool.stormproof]` in `pyproject.toml`, then from the defaults.

    Returns:
        The lifecycle: its phase, what is in flight, and its events to subscribe to.

    Raises:
        AlreadyInstalled: This app has a lifecycle already, or has started.
        InvalidSetting: A setting is no number of seconds in its range, or a part is no part.
    """
    _check(app, parts)
    DeadlineMiddleware(app, headers=deadline_headers)  # says now what is wrong with them
    if threads is not None and (type(threads) is not int or threads < 1):
        raise InvalidSetting(f"install(threads={threads!r}) must be an int of 1 or more")
    settings = load_settings(grace=grace, prestop=prestop, deadline=deadline)
    lifecycle = Lifecycle(grace=settings.grace, prestop=settings.prestop)
    lifecycle.parts = parts
    drain = Drain(lifecycle, parts)
    setattr(app.state, _STATE, lifecycle)
    setattr(app.state, _DRAIN, drain)
    _wrap_lifespan(app, drain, threads)
    admission = _checked_admission(admission, lifecycle)
    _wrap_middleware(app, drain, settings.deadline, deadline_headers, admission)
    _wrap_openapi(app)
    app.add_exception_handler(StormproofError, _as_problem)
    return lifecycle


def installed_lifecycle(app: object) -> Lifecycle | None:
    """Return the lifecycle that `install` gave this app, or None."""
    return getattr(getattr(app, "state", None), _STATE, None)


def installed_drain(app: object) -> Drain | None:
    """Return the drain that `install` gave this app, or None; `serve` begins it for its parent."""
    return getattr(getattr(app, "state", None), _DRAIN, None)


def deadline_statistics(app: object) -> DeadlineStatistics:
    """Return what deadlines have done in this app: who is overdue now, and what was before.

    All zero before the app has begun to serve, and for one without `install`.

    versionadded: 0.1
    """
    middleware: DeadlineMiddleware | None = getattr(getattr(app, "state", None), _DEADLINES, None)
    return DeadlineStatistics(0, 0, 0) if middleware is None else middleware.statistics()


def session(database: "Database") -> Any:
    """Return a dependency that gives the endpoint a unit of work on `database`.

    To be used as `Session = Annotated[AsyncSession, stormproof.session(database)]`.
    COMMIT happens after the endpoint returned and its result was serialized, and **before the
    response is sent**, so a failed COMMIT is never answered with success. An exception
    (HTTPException and cancellation too) rolls back. In a streaming endpoint the session has
    ended before the first item: open `database.session()` inside the generator instead.

    Raises (in the request):
        PoolTimeout, CommitFailed, DatabaseUnavailable, DeadlineExceeded: as `Database.session`.
    """

    async def unit_of_work() -> "AsyncIterator[AsyncSession]":
        async with database.session() as work:
            yield work

    return Depends(unit_of_work, scope="function")


def read_session(database: "Database") -> Any:
    """Return a dependency that gives the endpoint a unit of work that only reads.

    To be used like `session`, and in preference to it for what does not write: on SQLite a
    `session` is a writer, of which there is one at a time; readers wait for nobody.
    """

    async def reading() -> "AsyncIterator[AsyncSession]":
        async with database.read_session() as work:
            yield work

    return Depends(reading, scope="function")


def sync_session(database: "Database") -> Any:
    """Return a dependency that gives `def` endpoints and dependencies a unit of work.

    To be used as `Session = Annotated[SyncSession, stormproof.sync_session(database)]`. The
    request waits for a place in the pool before a thread is taken for it; otherwise 40 threads
    wait for 15 connections, and those who have one wait for a thread. All who depend on it in
    one request share one session, however often this was called. COMMIT happens before the
    response is sent, as with `session`.

    Raises (in the request):
        PoolTimeout, CommitFailed, DatabaseUnavailable, DeadlineExceeded: as
            `Database.sync_session`.
        MissingExtra: The sync driver is not installed (raised here, not in the request).
    """
    database.prepare_sync()
    return Depends(_SyncUnit(database, is_reader=False), scope="function")


def sync_read_session(database: "Database") -> Any:
    """Return a dependency that gives `def` endpoints a unit of work that only reads.

    To be used like `sync_session`, and in preference to it for what does not write.
    """
    database.prepare_sync()
    return Depends(_SyncUnit(database, is_reader=True), scope="function")


@dataclass(frozen=True)
class _SyncUnit:
    """The dependency; equal for one database, so that FastAPI makes one session a request."""

    database: "Database"
    is_reader: bool

    async def __call__(self) -> "AsyncIterator[SyncSession]":
        database = self.database
        unit = database.sync_read_session if self.is_reader else database.sync_session
        async with unit() as work:
            yield work


class SupervisedBackgroundTasks(StarletteTasks):
    """FastAPI's `BackgroundTasks`, but the work is done by the supervisor.

    Got by an endpoint or a dependency with the annotation `stormproof.BackgroundTasks`.
    """

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self._batch = batch

    def add_task(self, func: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
        """Plan `func(*args, **kwargs)` for when the response was sent; from any thread.

        What is added runs in its order, each as a supervised task; a plain function runs in a
        thread. Nothing runs when the endpoint raises (HTTPException too) or a COMMIT fails.

        Raises:
            TasksFull: As many tasks are running as may; let it fly, and the caller has a 503.
            TasksClosed: The tasks are not open.
        """
        self._batch.add(func, *args, **kwargs)

    async def __call__(self) -> None:
        """Start what was added: for a response that is given this as its `background`."""
        self._batch.start()


def background(tasks: Tasks | ConfiguredTasks | None = None) -> Any:
    """Return a dependency that gives the endpoint FastAPI's `BackgroundTasks`, supervised.

    `stormproof.BackgroundTasks` as the annotation is enough where the app has one `Tasks`.
    To name another, or to give options, use
    `Annotated[stormproof.BackgroundTasks, stormproof.background(tasks.options(timeout=30))]`.
    The work starts when the response was sent, or the client has left; by then everything
    with `scope="function"` has ended well, which is where `session` commits.

    Args:
        tasks: Who does the work; None: the first `Tasks` that was given to `install`.

    Raises (in the request):
        NotStarted: No `Tasks` was given to `install`.
    """

    async def collect(connection: HTTPConnection) -> AsyncIterator[SupervisedBackgroundTasks]:
        batch = (tasks or _installed_tasks(connection)).batch()
        is_promised = False

        async def note(*failure: object) -> None:
            nonlocal is_promised
            is_promised = failure[0] is None

        # At the bottom of the stack, so that it ends after the COMMIT wherever the endpoint's
        # signature has put the session.
        stack: AsyncExitStack = connection.scope["fastapi_function_astack"]
        earlier = stack.pop_all()
        stack.push_async_exit(note)
        stack.push_async_exit(earlier)
        try:
            yield SupervisedBackgroundTasks(batch)
        finally:
            if is_promised:
                batch.start()
            else:
                batch.drop()

    return Depends(collect)


def _installed_tasks(connection: HTTPConnection) -> Tasks:
    lifecycle: Lifecycle | None = connection.scope.get(LIFECYCLE_KEY)
    for part in lifecycle.parts if lifecycle is not None else ():
        if isinstance(part, Tasks):
            return part
    raise NotStarted(
        "stormproof.BackgroundTasks has no supervisor to give the work to; "
        "give one to install(app, stormproof.Tasks())"
    )


BackgroundTasks = Annotated[SupervisedBackgroundTasks, background()]
"""The annotation that gives an endpoint FastAPI's `BackgroundTasks`, supervised: see `background`.

An alias and not a class, because FastAPI makes its own class for each subclass of it.
"""


def route_deadline(seconds: float) -> Any:
    """Return a dependency that lets its route take at most `seconds` from its arrival.

    To be used as `@app.get("/report", dependencies=[stormproof.route_deadline(5.0)])`.
    It can only shorten what the header or the default allows. Unlike the default it covers
    the body too: a stream that is not over by then is ended without a final chunk.
    """
    if not 0 < seconds < float("inf"):
        raise InvalidSetting(f"route_deadline must be a number of seconds above 0; got {seconds!r}")

    async def shorten_deadline(request: Request) -> None:
        limit_request(request.scope, seconds)

    return Depends(shorten_deadline)


def rate_limit(limit: RateLimit) -> Any:
    """Return a dependency that counts each call of its route against `limit`.

    To be used as `@app.get("/search", dependencies=[stormproof.rate_limit(searches)])`.
    The answer says what is left of the quota (`RateLimit`, `RateLimit-Policy`), but not where
    the endpoint returns a `Response` of its own. For whole paths, `AdmissionRule(rate=...)` is
    cheaper, and comes before other dependencies.

    Raises (in the request):
        RateLimited: The caller is over its quota (429).
    """

    async def count(request: Request, response: Response) -> None:
        for name, value in limit.check(request.scope):
            response.headers[name.decode()] = value.decode()

    return Depends(count)


def _check(app: FastAPI, parts: tuple[Part, ...]) -> None:
    if not isinstance(app, FastAPI):
        raise InvalidSetting(f"install() wants a FastAPI app; got {type(app).__name__}")
    if installed_lifecycle(app) is not None:
        raise AlreadyInstalled("install() was called twice on this app; call it once")
    if app.middleware_stack is not None:
        raise AlreadyInstalled("install() must be called before the app serves its first request")
    for part in parts:
        if not all(callable(getattr(part, verb, None)) for verb in ("open", "drain", "close")):
            raise InvalidSetting(
                f"install() got {type(part).__name__}, which has no open, drain and close"
            )


def _wrap_lifespan(app: FastAPI, drain: Drain, threads: int | None) -> None:
    own_lifespan = app.router.lifespan_context
    lifecycle = drain.lifecycle

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        lifecycle.restart()
        drain.restart()
        if threads is not None:
            to_thread.current_default_thread_limiter().total_tokens = threads
        try:
            # Around the start, too: a signal that comes then waits for it, and drains at once.
            with drain_on_signals(drain):
                async with (
                    opened(drain.parts, lifecycle),
                    drain.bounded_teardown(),
                    own_lifespan(app) as state,
                ):
                    lifecycle.enter(Phase.READY)
                    yield state
                    await drain.finish()
        except StormproofError as error:
            drain.start_error = error
            raise
        finally:
            await drain.abandon()
            if lifecycle.is_draining:
                drain.report()

    app.router.lifespan_context = lifespan


def _checked_admission(
    admission: Admission | Limiter | Adaptive | None, lifecycle: Lifecycle
) -> Admission | None:
    if isinstance(admission, Limiter | Adaptive):
        admission = Admission(admission)
    if isinstance(admission, Admission):
        admission.report_to(lifecycle.events)
    elif admission is not None:
        raise InvalidSetting(
            f"admission must be an Admission or a Limiter, not {type(admission).__name__}"
        )
    return admission


def _wrap_middleware(
    app: FastAPI,
    drain: Drain,
    deadline: float,
    headers: Sequence[str],
    admission: Admission | None,
) -> None:
    """Put our middleware around the whole stack, also around what the user adds later."""
    build_own: Callable[[], ASGIApp] = app.build_middleware_stack

    def build() -> ASGIApp:
        inner = build_own()
        if admission is not None:
            inner = AdmissionMiddleware(
                inner, admission=admission, may_cancel=lambda task: thread_of(task) is None
            )
        events = drain.lifecycle.events
        inner = DeadlineMiddleware(inner, default=deadline, headers=headers, events=events)
        setattr(app.state, _DEADLINES, inner)
        return LifecycleMiddleware(inner, drain=drain, own_paths=_own_paths(app))

    # An attribute of this one app: no class is patched.
    app.build_middleware_stack = build  # type: ignore[method-assign]


def _own_paths(app: FastAPI) -> set[str]:
    return {context.path for context in iter_route_contexts(app.routes) if context.path}


def _wrap_openapi(app: FastAPI) -> None:
    own_openapi = app.openapi

    def openapi() -> dict[str, Any]:
        schema = own_openapi()
        for path in schema.get("paths", {}).values():
            for operation in path.values():
                if isinstance(operation, dict) and "responses" in operation:
                    _add_problems(operation["responses"])
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _add_problems(responses: dict[str, Any]) -> None:
    for status, description in _PROBLEM_RESPONSES.items():
        content = {PROBLEM_JSON: {"schema": _PROBLEM_SCHEMA}}
        responses.setdefault(status, {"description": description, "content": content})


def _as_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, StormproofError)  # what it was registered for
    response = Response(problem_body(error), status_code=error.status)
    response.raw_headers.extend(problem_headers(error))
    return response
