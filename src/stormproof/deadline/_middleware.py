"""`DeadlineMiddleware`: gives each HTTP request its deadline, and its answer in time."""

import asyncio
import math
from collections.abc import Iterable

from stormproof._core.asgi import ASGIApp, Receive, Scope, Send, send_answer
from stormproof._core.clock import MONOTONIC, Clock
from stormproof._core.deadline import enter_deadline, leave_deadline
from stormproof._core.events import Events
from stormproof._core.running import Running
from stormproof.errors import InvalidHeader, InvalidSetting, problem_body, problem_headers

from ._expiries import Expiries
from ._headers import TIMEOUT_HEADER, asked_seconds, readings_of
from ._request import DEADLINE_KEY, Counts, DeadlineStatistics, RequestDeadline, Rules


class DeadlineMiddleware:
    """Answers 504 in time when a handler does not; pure ASGI, for `http` scopes only.

    A request may take the smallest of `default`, the headers that are trusted and what its route
    allows (`limit_request`), counted from its arrival here. At that point the handler's
    task is cancelled once. If it has not ended `answer_grace` seconds later, the middleware
    sends the 504 itself and drops what the handler sends afterwards. It goes on awaiting the
    handler until it has ended. A handler that waits for a worker thread (`def` endpoints) is
    cancelled only when the thread has ended.

    Once the response has started, `default` is lifted, so that a stream may run. The header and
    the route's limit stay; when they pass in the middle of the body, the handler is cancelled
    and the body is left without its end. The middleware then returns, and uvicorn closes the
    connection and logs one line: "ASGI callable returned without completing response".

    Put it outside any `BaseHTTPMiddleware`, which would complete a body that was cut off.

    Args:
        app: The ASGI application.
        default: Seconds a request may take until its response starts; None for no limit.
        answer_grace: Seconds a cancelled handler gets to end by itself before the 504 is sent.
        headers: Names of the headers in which a caller may say how long it waits; of several the
            least counts. Any of `X-Request-Timeout` (seconds), `grpc-timeout`,
            `Connect-Timeout-Ms`, `x-envoy-expected-rq-timeout-ms` and `Prefer` (`wait=N`).
        events: Where `DeadlineExpired` and `OverdueFinished` go.
        clock: Where the time is read; it must go as fast as the event loop's.

    Raises:
        InvalidSetting: `default` is not above 0, or `answer_grace` is negative, or one of them
            is not a finite number; a header is not known.

    versionadded: 0.1
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        default: float | None = 30.0,
        answer_grace: float = 0.02,
        headers: Iterable[str] = (TIMEOUT_HEADER,),
        events: Events | None = None,
        clock: Clock = MONOTONIC,
    ) -> None:
        if default is not None and not 0 < default < math.inf:
            raise InvalidSetting(f"default={default!r} must be a finite number above 0, or None")
        if not 0 <= answer_grace < math.inf:
            raise InvalidSetting(
                f"answer_grace={answer_grace!r} must be a finite number, 0 or more"
            )
        self._app = app
        self._default = math.inf if default is None else default
        self._grace = answer_grace
        self._events = events or Events()
        self._clock = clock
        self._readings = readings_of(headers)
        self._counts = Counts()
        self._running = Running()
        self._rules: Rules | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request; returns when its handler has ended *and* it was answered.

        A malformed header is answered 400 and nothing is run. Cancelled from outside (the
        server stops): the handler is cancelled as it would be without the middleware.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            asked = asked_seconds(scope, self._readings)
        except InvalidHeader as error:
            await send_answer(send, error.status, problem_headers(error), problem_body(error))
            return
        task = self._running.task()
        rules = self._rules
        if rules is None or rules.loop is not self._running.loop:
            rules = self._rules = self._rules_here()
        request = RequestDeadline(scope, send, rules, asked, task)
        scope[DEADLINE_KEY] = request
        token = enter_deadline(request)
        try:
            await self._app(scope, receive, request.send)
        except asyncio.CancelledError:
            if not await request.settle_cancelled():
                raise
        except Exception:
            await request.settle()
            raise
        else:
            if request.has_expired:
                await request.settle()
        finally:
            leave_deadline(token)
            # Scope and deadline hold each other: a cycle would cost each request 5 us in the
            # garbage collector's runs and in memory that is never warm (CPython 3.11).
            scope.pop(DEADLINE_KEY, None)
            request.end()

    def statistics(self) -> DeadlineStatistics:
        """Return how many requests are overdue now, and how many have met their deadline."""
        counts = self._counts
        return DeadlineStatistics(counts.overdue, counts.expired, counts.answered)

    def _rules_here(self) -> Rules:
        loop = asyncio.get_running_loop()
        return Rules(
            default=self._default,
            grace=self._grace,
            events=self._events,
            clock=self._clock,
            expiries=Expiries(loop),
            now=self._clock.now,
            loop=loop,
            counts=self._counts,
        )
