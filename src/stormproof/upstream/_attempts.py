"""Attempts: how often and when one call is made on the wire, until it is answered."""

import asyncio
import math
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

from ._breaker import Circuit, CircuitBreaker
from ._budget import Budget
from ._client import Client, repeated
from ._clock import LoopClock
from ._hedge import Hedge, first_good
from ._latency import RotatingQuantile
from ._operations import Latencies
from ._outcome import Outcome
from ._retry import Retry, retry_after
from ._statistics import Counts
from ._wire import OnFault, Wire


class Attempts:
    """Sends what an upstream was asked for, again where that may help, and counts it."""

    def __init__(
        self,
        counts: Counts,
        wire: Wire,
        *,
        budget: Budget | None,
        retry: Retry | None,
        hedge: Hedge | None,
        breaker: CircuitBreaker | None,
    ) -> None:
        self._counts = counts
        self._wire = wire
        self._retry = retry
        self._hedge = hedge
        self._breaker = breaker
        self._latencies = (
            None if hedge is None else Latencies(window=hedge.window, clock=LoopClock())
        )
        self._budget = budget or Budget(clock=LoopClock())

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
            return (await self._wire.attempt(client, request, ends_at)).unwrapped()
        while True:
            outcome = await self._hedged(client, request, ends_at)
            failures += 1
            pause = self._pause(outcome, failures, ends_at)
            if pause is None:
                return outcome.unwrapped()
            await asyncio.sleep(pause)
            self._counts.retries += 1
            request = repeated(request)

    async def opened(
        self,
        held: AsyncExitStack,
        client: Client,
        request: Any,
        *,
        ends_at: float,
        is_repeatable: bool,
    ) -> tuple[Any, OnFault]:
        """Return the answer to `request` with its body unread, and whom to tell of its faults.

        Its slot and its connection are in `held`. Waits, and is cancelled, as `answer`.
        """
        self._budget.note_call()
        failures = 0
        while True:
            async with AsyncExitStack() as attempt:
                outcome, on_fault = await self._wire.opened(attempt, client, request, ends_at)
                failures += 1
                pause = self._pause(outcome, failures, ends_at) if is_repeatable else None
                if pause is None:
                    response = outcome.unwrapped()
                    held.push_async_exit(attempt.pop_all())
                    return response, on_fault
            await asyncio.sleep(pause)
            self._counts.retries += 1
            request = repeated(request)

    async def _hedged(self, client: Client, request: Any, ends_at: float) -> Outcome:
        """Return the outcome of an attempt, or of a second one beside it when it is slow."""
        if self._hedge is None or self._latencies is None:
            return await self._wire.attempt(client, request, ends_at)
        latency = self._latencies.of(request)
        delay = self._hedge.delay(latency, budget_left=self._budget.share_left)
        if delay is None or asyncio.get_running_loop().time() + delay >= ends_at:
            return await _timed(self._wire.attempt(client, request, ends_at), latency)
        outcome, is_second = await first_good(
            lambda: _timed(self._wire.attempt(client, request, ends_at), latency, delay),
            lambda: _timed(self._wire.attempt(client, repeated(request), ends_at), latency, delay),
            delay=delay,
            may_hedge=self._may_hedge,
        )
        self._counts.hedges_won += is_second
        return outcome

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


async def _timed(
    attempt: Coroutine[Any, Any, Outcome], latency: RotatingQuantile, delay: float = math.inf
) -> Outcome:
    """Return the outcome, and record what it took; given up after `delay` it was slow, too."""
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    try:
        outcome = await attempt
    except asyncio.CancelledError:
        if loop.time() - began_at >= delay:
            latency.record(loop.time() - began_at)
        raise
    if outcome.is_good:
        latency.record(loop.time() - began_at)
    return outcome
