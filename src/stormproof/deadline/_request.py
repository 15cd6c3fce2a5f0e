"""One request under its deadline: the timer, the cancellation, and the one answer."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from stormproof._core.asgi import BodyLayer, Message, Scope, Send, request_name, send_answer
from stormproof._core.clock import Clock
from stormproof._core.deadline import Deadline, current_deadline
from stormproof._core.events import DeadlineExpired, Events, OverdueFinished
from stormproof.errors import DeadlineExceeded, InvalidSetting, problem_body, problem_headers

from ._expiries import Expiries
from ._in_thread import thread_of

DEADLINE_KEY = "stormproof.deadline"
"""Where the `RequestDeadline` of the request travels in the scope."""

_EARLY = 0.002  # uvloop counts in whole milliseconds, so its timers may fire a little early


@dataclass(frozen=True, slots=True)
class DeadlineStatistics:
    """What deadlines have done to the requests of one middleware.

    Attributes:
        overdue: Handlers that still run although their caller's time, and the grace, are over.
        expired: Requests that met their deadline, answered or not.
        answered: Those of them that were answered 504 by the middleware.
    """

    overdue: int
    expired: int
    answered: int


@dataclass(slots=True)
class Counts:
    """The same, while it is counted."""

    overdue: int = 0
    expired: int = 0
    answered: int = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """What all requests of one service on one loop have in common.

    Attributes:
        default: Seconds the service allows; lifted when the response starts.
        grace: Seconds a cancelled handler gets to end by itself before the 504 is sent.
        events: Where `DeadlineExpired` and `OverdueFinished` go.
        clock: The clock.
        expiries: The one timer of those that have the default deadline.
        now: The clock's `now`, already bound: each request calls it.
        loop: The loop that all this is on.
        counts: What is counted for `statistics()`.
    """

    default: float
    grace: float
    events: Events
    clock: Clock
    expiries: Expiries
    now: Callable[[], float]
    loop: asyncio.AbstractEventLoop
    counts: Counts


class RequestDeadline(Deadline, BodyLayer):
    """The deadline of one request that begins to run here; answers for it once it has passed.

    What was asked for explicitly outlives the response's first byte. The handler runs in the
    server's own task. At the deadline that task is cancelled once, from a timer; `grace` seconds
    later a second task sends the 504, whatever the handler does. The middleware awaits the handler
    and then, with `settle`, the 504.

    One object for both, because every request pays for each: two took 1.5 µs more (CPython
    3.11).

    Args:
        scope: The ASGI scope.
        send: The server's `send`.
        rules: What all requests of this service have in common.
        asked: Seconds the caller's headers allow; kept until the response ends.
        task: The server's task that runs the request; without one nothing could be cancelled.
    """

    # Slots, and each of them set: reading a class attribute through an instance takes as long as
    # ten stores (CPython 3.11).
    __slots__ = (
        "_answer",
        "_asked_at",
        "_cancelling",
        "_expired_at",
        "_is_cancelled",  # our cancel() stands, not taken back yet
        "_is_closed",  # nothing more of the handler goes out
        "_is_ended",
        "_is_overdue",
        "_is_queued",  # among the expiries, instead of having a timer
        "_is_reported",
        "_is_started",  # the handler's answer is on its way
        "_late",  # seconds from the deadline to the handler's end
        "_rules",
        "_scope",
        "_send",
        "_task",
        "_timer",
        "arrived_at",
    )

    def __init__(
        self, scope: Scope, send: Send, rules: "Rules", asked: float, task: asyncio.Task[Any]
    ) -> None:
        # Not `super().__init__()`: this is on the path of every request.
        self.clock = rules.clock
        self.outer = outer = current_deadline()
        self.on_change = None
        self.arrived_at = now = rules.now()
        self._asked_at = now + asked
        self._at = now + (rules.default if rules.default < asked else asked)
        self._rules = rules
        self._scope = scope
        self._send = send
        self._answer: asyncio.Task[None] | None = None
        self._expired_at: float | None = None
        self._is_cancelled = self._is_closed = self._is_started = False
        self._is_ended = self._is_overdue = self._is_reported = False
        self._late = 0.0
        self._task = task
        self._cancelling = task.cancelling()
        self._timer: asyncio.TimerHandle | None = None
        if outer is None and asked == math.inf and rules.default != math.inf:
            self._is_queued = True
            rules.expiries.pending[self] = None
            if rules.expiries.timer is None:
                rules.expiries.arm(self)
        else:
            self._is_queued = False
            self._set_timer()

    @property
    def has_expired(self) -> bool:
        """Whether the deadline has passed while the request ran."""
        return self._expired_at is not None

    def shorten(self, at: float) -> None:
        """Bring the deadline forward to `at`, and let `at` hold for the response's body too."""
        self._asked_at = min(self._asked_at, at)
        super().shorten(at)

    def shorten_to(self, seconds: float) -> None:
        """Allow `seconds` at most, counted from the arrival of the request."""
        self.shorten(self.arrived_at + seconds)

    def lift(self) -> None:
        """Take every limit of this request away, the ones that were asked for included."""
        self._asked_at = math.inf
        super().lift()

    def _lift_default(self) -> None:
        """Take the service's default away and keep what was asked for explicitly."""
        if self._at != self._asked_at:
            self._at = self._asked_at
            self._changed()

    def _changed(self) -> None:
        if not self._is_ended:
            self._set_timer()

    @property
    def body_send(self) -> Send | None:
        """The server's, if no deadline holds for the body; else it may have to be cut here."""
        return self._send if self._is_started and self.at == math.inf else None

    def send(self, message: Message) -> Awaitable[None]:
        """Pass on what the handler sends, until the deadline's answer has taken its place."""
        if self._is_closed:
            return asyncio.sleep(0)  # lets the loop run, should the handler send in a tight loop
        kind = message["type"]
        if kind == "http.response.start":
            self._is_started = True
            if self._is_queued:
                self._is_queued = False
                self._rules.expiries.pending.pop(self, None)
                self._at = math.inf
            else:
                self._lift_default()
            if self._expired_at is not None:
                self._report(answered=False)
        elif self._timer is not None and self._is_started and not message.get("more_body"):
            self.lift()  # all is said: background tasks are not the caller's wait
        return self._send(message)

    # What the timer does -----------------------------------------------------------------

    def left(self) -> float:
        """Return the seconds until the deadline."""
        return self.remaining()

    def _set_timer(self) -> None:
        if self._expired_at is not None:
            return
        self._drop_timer()
        if self.at != math.inf:
            # 0.9 µs with its cancel(), where call_later takes 1.8 (CPython 3.11).
            at = self._rules.loop.time() + self.remaining()
            self._timer = self._rules.loop.call_at(at, self.expire)

    def _drop_timer(self) -> None:
        if self._is_queued:
            self._is_queued = False
            self._rules.expiries.pending.pop(self, None)
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def expire(self) -> None:
        """Cancel the handler, and cut its answer if that is under way."""
        self._is_queued = False
        if self.remaining() > _EARLY:
            self._set_timer()
            return
        self._expired_at = self.at
        self._rules.counts.expired += 1
        if self._is_started:
            # A polite last chunk would make half a body look whole.
            self._is_closed = True
            self._report(answered=False)
        self._timer = self._rules.loop.call_later(self._rules.grace, self._grace_over)
        self._stop_handler()

    def _stop_handler(self, ended: asyncio.Future[Any] | None = None) -> None:
        """Cancel the handler once; if it waits for a thread, as soon as the thread has ended.

        The thread's result is not lost on the way: the cancellation lands at the next `await`.
        """
        if self._is_ended or (self._is_started and not self._is_closed):
            return
        if ended is not None and ended.cancelled():
            return  # someone else cancelled the wait: a second time would hit the clean-up
        thread = thread_of(self._task)
        if thread is not None:
            thread.add_done_callback(self._stop_handler)
            return
        self._is_cancelled = True
        self._task.cancel()

    def _grace_over(self) -> None:
        self._is_overdue = True
        self._rules.counts.overdue += 1
        if not self._is_started:
            self._is_closed = True
            self._answer = self._rules.loop.create_task(self._send_504())
        elif self.at <= (self._expired_at or 0.0):
            self._is_closed = True  # began its own answer in the grace, but did not end it

    async def _send_504(self) -> None:
        name, timeout = request_name(self._scope), self._timeout()
        error = DeadlineExceeded(
            f"{name} had no answer within {timeout:g} s; what it changed may be undone or not, "
            "so try again only what is safe to repeat, or allow it more time"
        )
        try:
            headers = problem_headers(error)
            await send_answer(self._send, error.status, headers, problem_body(error))
        except OSError:
            self._report(answered=False)  # the client has left before us
        else:
            self._report(answered=True)

    # How it ends --------------------------------------------------------------------------

    def _take_back_cancel(self) -> bool:
        """Take back our cancel(); return whether it was the only one."""
        if not self._is_cancelled:
            return False
        self._is_cancelled = False
        return self._task.uncancel() <= self._cancelling

    async def settle_cancelled(self) -> bool:
        """Settle, and return whether the cancellation that ended the handler was ours alone.

        Of someone else: nothing is answered, the timer and the 504's task are gone.
        """
        if self._take_back_cancel():
            await self.settle()
            return True
        await self._drop_answer()
        return False

    async def settle(self) -> None:
        """See to it that an expired request has its one answer; waits for the server's send."""
        self._end()
        if self._answer is not None:
            await self._answer
        elif self._expired_at is not None and not self._is_started:
            self._is_closed = True
            await self._send_504()

    async def _drop_answer(self) -> None:
        self._end()
        if self._answer is not None and not self._answer.done():
            self._answer.cancel()
            await asyncio.wait([self._answer])

    def end(self) -> None:
        """Note that the handler has ended, and the 504 with it; called last."""
        if self._expired_at is None and self._timer is None and not self._is_queued:
            self._is_ended = True  # the usual end, in a third of the time
        else:
            self._end()
            if self._is_overdue:
                self._rules.counts.overdue -= 1
                self._rules.events.emit(OverdueFinished(request_name(self._scope), self._late))
        # Contexts that outlive the request hold this object: uvicorn's keep-alive timer is one.
        del self._task

    def _end(self) -> None:
        """Give back timer and cancellation; idempotent."""
        if self._is_ended:
            return
        self._is_ended = True
        self._drop_timer()
        self._take_back_cancel()
        if self._expired_at is not None:
            self._late = self.clock.now() - self._expired_at

    def _timeout(self) -> float:
        return (self._expired_at or 0.0) - self.arrived_at

    def _report(self, *, answered: bool) -> None:
        if not self._is_reported:
            self._is_reported = True
            self._rules.counts.answered += answered
            name = request_name(self._scope)
            self._rules.events.emit(DeadlineExpired(name, self._timeout(), answered))


def limit_request(scope: Scope, seconds: float) -> None:
    """Allow the request of `scope` `seconds` at most, counted from its arrival.

    For a dependency of one route. It cannot extend the deadline, but other than the service's
    default it also holds for the body: a stream that takes longer is cut off.

    Raises:
        InvalidSetting: `seconds` is not a number above 0, or the request has no deadline:
            the app has no `DeadlineMiddleware`, or the scope is a WebSocket's.
    """
    if not 0 < seconds < math.inf:
        raise InvalidSetting(f"limit_request(seconds={seconds!r}) must be a finite number above 0")
    deadline = scope.get(DEADLINE_KEY)
    if not isinstance(deadline, RequestDeadline):
        raise InvalidSetting(
            f"limit_request() on {request_name(scope)} found no deadline in the scope; put "
            "DeadlineMiddleware around the app, and use it on HTTP routes only"
        )
    deadline.shorten_to(seconds)
