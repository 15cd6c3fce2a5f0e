"""Attempts: what one call does on the wire, within its slot and its time."""

import asyncio
import math
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Protocol

from stormproof.errors import CircuitOpen

from ._breaker import Circuit, CircuitBreaker, Permit
from ._budget import Budget
from ._client import Client, repeated
from ._clock import LoopClock
from ._faults import Fault, fault_of
from ._hedge import Hedge, first_good
from ._latency import RotatingQuantile
from ._outcome import Outcome
from ._retry import Retry, retry_after
from ._statistics import Counts

TIMEOUT_HEADER = "X-Request-Timeout"

_NO_SLOT = nullcontext()
# uvloop counts timers in whole milliseconds, so a timeout may cancel a little before its time.
_TIMER_EARLY = 0.002
_CONNECTED = frozenset(
    ("connection.connect_tcp.complete", "connection.connect_unix_socket.complete")
)


class Limit(Protocol):
    """What bounds the calls at once; `stormproof.Limiter` is one."""

    def slot(self) -> AbstractAsyncContextManager[Any]:
        """Hold one slot inside `async with`; entering waits a bounded time, or raises."""
        ...


class Attempts:
    """Sends what an upstream was asked for, again where that may help, and counts it.

    Attributes:
        is_told: Whether the client tells `note_connection` of its connections; otherwise each
            request asks for it (httpcore2's trace, which costs a call a tenth).
    """

    def __init__(
        self,
        counts: Counts,
        *,
        limit: Limit | None,
        budget: Budget | None,
        retry: Retry | None,
        hedge: Hedge | None,
        breaker: CircuitBreaker | None,
    ) -> None:
        self._counts = counts
        self._limit = limit
        self._retry = retry
        self._hedge = hedge
        self._breaker = breaker
        self._latency = (
            None if hedge is None else RotatingQuantile(window=hedge.window, clock=LoopClock())
        )
        self._budget = budget or Budget(clock=LoopClock())
        self.is_told = False

    async def answer(
        self, client: Client, request: Any, *, ends_at: float, is_repeatable: bool
    ) -> Any:
        """Return the answer to `request`, which its caller gives up at the loop time `ends_at`.

        Waits for a slot, for the upstream, and between attempts; never past `ends_at`.
        Cancelled: the attempt is given up; its slot and its place in the pool are free again.
        """
        self._budget.note_call()
        failures = 0
        if not is_repeatable:
            return (await self._attempt(client, request, ends_at)).unwrapped()
        while True:
            outcome = await self._hedged(client, request, ends_at)
            failures += 1
            pause = self._pause(outcome, failures, ends_at)
            if pause is None:
                return outcome.unwrapped()
            await asyncio.sleep(pause)
            self._counts.retries += 1
            request = repeated(request)

    async def _hedged(self, client: Client, request: Any, ends_at: float) -> Outcome:
        """Return the outcome of an attempt, or of a second one beside it when it is slow."""
        delay = self._delay()
        if delay is None or asyncio.get_running_loop().time() + delay >= ends_at:
            return await self._attempt(client, request, ends_at)
        outcome, is_second = await first_good(
            lambda: self._attempt(client, request, ends_at, delay),
            lambda: self._attempt(client, repeated(request), ends_at, delay),
            delay=delay,
            may_hedge=self._may_hedge,
        )
        self._counts.hedges_won += is_second
        return outcome

    def _delay(self) -> float | None:
        if self._hedge is None or self._latency is None:
            return None
        return self._hedge.delay(self._latency)

    def _may_hedge(self) -> bool:
        if self._breaker is not None and self._breaker.circuit is not Circuit.CLOSED:
            return False
        allowed = self._has_budget()
        self._counts.hedges += allowed
        return allowed

    def _pause(self, outcome: Outcome, failures: int, ends_at: float) -> float | None:
        """Return the seconds to the next attempt, which is paid for; None: there is none."""
        retry = self._retry
        if retry is None or failures >= retry.attempts or not retry.wants(outcome):
            return None
        asked_for = 0.0 if outcome.error else retry_after(outcome.response.headers)
        pause = retry.pause(failures, asked_for=asked_for)
        if asyncio.get_running_loop().time() + pause >= ends_at:
            return None
        if self._breaker is not None and not self._breaker.would_permit:
            return None
        return pause if self._has_budget() else None

    def _has_budget(self) -> bool:
        if self._budget.take():
            return True
        self._counts.extra_refused += 1
        return False

    async def _attempt(
        self, client: Client, request: Any, ends_at: float, delay: float = math.inf
    ) -> Outcome:
        """Make one attempt, if the circuit breaker lets it through, and tell it how that ended."""
        if self._breaker is None:
            return await self._sent(client, request, ends_at, delay)
        try:
            permit = self._breaker.permit()
        except CircuitOpen as exc:
            return Outcome(error=exc)
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        try:
            outcome = await self._sent(client, request, ends_at, delay)
            _tell(permit, outcome, loop.time() - began_at)
            return outcome
        except asyncio.CancelledError:
            if loop.time() >= ends_at - _TIMER_EARLY:
                permit.late(loop.time() - began_at)
            raise
        finally:
            permit.abandoned()  # when nothing was told

    async def _sent(self, client: Client, request: Any, ends_at: float, delay: float) -> Outcome:
        """Send one attempt; given up after more than `delay` seconds, it still counts as slow."""
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        try:
            async with self._slot():
                left = ends_at - loop.time()
                request.headers[TIMEOUT_HEADER] = f"{max(0.0, left):.3f}"
                response = await client.send(self._counted(request))
        except asyncio.CancelledError:
            if loop.time() - began_at >= delay:
                self._took(loop.time() - began_at)
            raise
        except Exception as exc:
            return Outcome(error=exc)
        outcome = Outcome(response)
        if outcome.is_good:
            self._took(loop.time() - began_at)
        return outcome

    def _took(self, seconds: float) -> None:
        if self._latency is not None:
            self._latency.record(seconds)

    def _slot(self) -> AbstractAsyncContextManager[Any]:
        return _NO_SLOT if self._limit is None else self._limit.slot()

    def note_connection(self) -> None:
        """Count a connection that was made."""
        self._counts.connections_opened += 1

    def _counted(self, request: Any) -> Any:
        """Count the connections that `request` opens, unless somebody else is told of them."""
        extensions = None if self.is_told else getattr(request, "extensions", None)
        if extensions is not None:
            extensions.setdefault("trace", self._trace)
        return request

    async def _trace(self, name: str, details: dict[str, Any]) -> None:
        if name in _CONNECTED:
            self.note_connection()


def _tell(permit: Permit, outcome: Outcome, seconds: float) -> None:
    """Tell the circuit breaker what an attempt says about the upstream."""
    if outcome.error is None:
        if outcome.response.status_code < 500:
            permit.succeeded()
        else:
            permit.failed()
        return
    fault = fault_of(outcome.error)
    if fault is Fault.LATE:
        permit.late(seconds)
    elif fault is not None:
        permit.failed()
