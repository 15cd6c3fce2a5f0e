"""`install()`: gives an app its lifecycle, its deadlines and its admission."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from stormproof._core.asgi import ASGIApp
from stormproof._core.lifecycle import Lifecycle, Part, Phase
from stormproof.deadline import (
    TIMEOUT_HEADER,
    DeadlineMiddleware,
    DeadlineStatistics,
    thread_of,
)
from stormproof.errors import AlreadyInstalled, InvalidSetting, StormproofError
from stormproof.lifecycle import Drain, LifecycleMiddleware, drain_on_signals, opened
from stormproof.limit import (
    Adaptive,
    Admission,
    AdmissionMiddleware,
    Limiter,
    RateLimit,
    admission_of,
)
from stormproof.settings import load_settings

from ._bounds import rate_limits_of
from ._def_threads import bounded_def_threads, thread_limiter
from ._jobs import DependencySolver
from ._problems import as_problem, tell_of_problems
from ._routes import route_finder
from ._stream_schemas import tell_of_streams
from ._streams import check_streams

_STATE = "stormproof_lifecycle"
_DRAIN = "stormproof_drain"
_DEADLINES = "stormproof_deadlines"


def install(
    app: FastAPI,
    *parts: Part,
    grace: float | None = None,
    prestop: float | None = None,
    deadline: float | None = None,
    deadline_headers: Sequence[str] = (TIMEOUT_HEADER,),
    threads: int | Limiter | None = None,
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
        threads: How many threads `def` endpoints and `def` dependencies may have at once,
            together, or the `Limiter` that says so and how long one waits; who would wait longer
            is answered 503. Whatever else uses AnyIO's threads may have as many beside them.
            None: all together what AnyIO allows, which is 40, and a wait without a bound.
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
    limiter = thread_limiter(threads)
    settings = load_settings(grace=grace, prestop=prestop, deadline=deadline)
    lifecycle = Lifecycle(grace=settings.grace, prestop=settings.prestop)
    lifecycle.parts = parts
    drain = Drain(lifecycle, parts)
    for part in parts:
        solve_with = getattr(part, "solve_with", None)
        if solve_with is not None:
            solve_with(DependencySolver(app, lifecycle))
    setattr(app.state, _STATE, lifecycle)
    setattr(app.state, _DRAIN, drain)
    admission = None if admission is None else admission_of(admission, lifecycle.events)
    if limiter is not None and limiter.events is None:
        limiter.events = lifecycle.events
    if admission is not None:
        admission.route_of = route_finder(app)
    _wrap_lifespan(app, drain, limiter, admission)
    _wrap_middleware(app, drain, settings.deadline, deadline_headers, admission)
    tell_of_problems(app, admission)
    tell_of_streams(app)
    app.add_exception_handler(StormproofError, as_problem)
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


def _wrap_lifespan(
    app: FastAPI, drain: Drain, threads: Limiter | None, admission: Admission | None
) -> None:
    own_lifespan = app.router.lifespan_context
    lifecycle = drain.lifecycle

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        lifecycle.restart()
        drain.restart()
        try:
            # Around the start, too: a signal that comes then waits for it, and drains at once.
            with drain_on_signals(drain), bounded_def_threads(threads):
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
            for limit in _rate_limits(app, admission):
                await limit.close()
            if lifecycle.is_draining:
                drain.report()

    app.router.lifespan_context = lifespan


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
        check_streams(app)
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


def _rate_limits(app: FastAPI, admission: Admission | None) -> set[RateLimit]:
    """Return the rate limits that the requests of this app are counted against."""
    found = set() if admission is None else admission.rates()
    for context in iter_route_contexts(app.routes):
        found.update(rate_limits_of(context))
    return found


def _own_paths(app: FastAPI) -> set[str]:
    return {context.path for context in iter_route_contexts(app.routes) if context.path}
