"""Calls: one answer within one total time, counted, and what goes wrong as an error of ours."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from stormproof._core import events
from stormproof.errors import StormproofError, UpstreamFailed, UpstreamTimeout

from . import _faults as faults
from ._attempts import Attempts
from ._body import Body
from ._client import Client
from ._fan_out import run_parts
from ._faults import Fault
from ._statistics import Counts

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One call.

    Attributes:
        request: What is sent.
        seconds: How long it may take in all.
        raise_for_status: Whether an answer other than 2xx is an error.
        is_repeatable: Whether it may be sent more than once.
    """

    request: Any
    seconds: float
    raise_for_status: bool
    is_repeatable: bool


class Calls:
    """Makes the calls of one upstream.

    Args:
        name: The upstream's name.
        counts: Where they are counted.
        attempts: What sends them.
        load: What the message of a late call says after the number of calls in flight.

    Attributes:
        events: Where `UpstreamFailed` goes.
    """

    def __init__(self, name: str, counts: Counts, attempts: Attempts, *, load: str) -> None:
        self._name = name
        self._counts = counts
        self._attempts = attempts
        self._load = load
        self.events = events.Events()

    async def answer(self, client: Client, call: Call) -> Any:
        """Return the answer to `call`, or raise; waits at most its seconds.

        Cancelled: the call is given up and its place in the pool is free again.
        """
        began_at = asyncio.get_running_loop().time()
        counts = self._counts
        counts.calls += 1
        counts.in_flight += 1
        try:
            response = await self._in_time(
                call,
                began_at,
                lambda: self._attempts.answer(
                    client,
                    call.request,
                    ends_at=began_at + call.seconds,
                    is_repeatable=call.is_repeatable,
                ),
            )
        finally:
            counts.in_flight -= 1
        self._check(call, response, began_at)
        return response

    @asynccontextmanager
    async def opened(self, client: Client, call: Call, *, idle: float) -> AsyncIterator[Any]:
        """Yield the answer to `call` as soon as its head is there; its seconds end with that.

        Each piece of the body may take `idle` seconds. Left or cancelled: the answer is closed.
        """
        began_at = asyncio.get_running_loop().time()
        counts = self._counts
        counts.calls += 1
        counts.in_flight += 1
        try:
            async with AsyncExitStack() as held:
                response, on_fault = await self._in_time(
                    call,
                    began_at,
                    lambda: self._attempts.opened(
                        held,
                        client,
                        call.request,
                        ends_at=began_at + call.seconds,
                        is_repeatable=call.is_repeatable,
                    ),
                )
                self._check(call, response, began_at)

                def translated(error: Exception) -> Exception | None:
                    on_fault(error, idle)
                    late = faults.stalled(self._name, call.request, idle)
                    ours = self._error(call, error, late=late)
                    return None if ours is None else self._noted(ours, began_at)

                response.stream = Body(response.stream, idle=idle, translated=translated)
                yield response
        finally:
            counts.in_flight -= 1

    async def outcomes(
        self,
        client: Client,
        calls: Mapping[str, Call],
        *,
        required: Collection[str],
        width: int | None,
    ) -> dict[str, Any]:
        """Return answer or error of each call, in their order; all have ended by then.

        The calls have one time together. Cancelled: all calls are cancelled and awaited.
        Raises the first error of a required call.
        """
        loop = asyncio.get_running_loop()
        began_at = loop.time()

        async def part(call: Call) -> Any:
            left = call.seconds - (loop.time() - began_at)
            return await self.answer(client, replace(call, seconds=max(0.0, left)))

        results = await run_parts(
            {name: partial(part, call) for name, call in calls.items()},
            required=required,
            seconds=math.inf,  # each call has its own end, and says more about it
            width=width,
        )
        for result in results.values():
            if result.error is not None and not isinstance(result.error, StormproofError):
                raise result.error
        return {name: results[name].error or results[name].value for name in calls}

    async def _in_time(
        self, call: Call, began_at: float, attempts: Callable[[], Awaitable[T]]
    ) -> T:
        """Return what `attempts` returns, or raise what it ended in as an error of ours."""
        try:
            if call.seconds <= 0:
                raise TimeoutError
            async with asyncio.timeout(call.seconds):
                return await attempts()
        except Exception as exc:
            error = self._error(call, exc)
            if error is None:
                raise
            raise self._noted(error, began_at) from exc

    def _check(self, call: Call, response: Any, began_at: float) -> None:
        if call.raise_for_status and not response.is_success:
            cause = f"answered {response.status_code}"
            raise self._noted(faults.failed(self._name, call.request, cause), began_at)

    def _error(
        self, call: Call, error: Exception, *, late: UpstreamTimeout | None = None
    ) -> UpstreamFailed | UpstreamTimeout | None:
        """Return the error of ours for what a call ended in; None: it is not the upstream's.

        `late` is the one for a time that was over, if it was not that of the call.
        """
        fault = faults.fault_of(error)
        if fault is None:
            return None
        if fault is not Fault.LATE:
            return faults.broken(self._name, call.request, fault, error)
        if late is not None:
            return late
        if call.seconds <= 0:
            return faults.not_asked(self._name, call.request)
        load = f"{self._counts.in_flight} {self._load}"
        return faults.late(self._name, call.request, call.seconds, load=load)

    def _noted(
        self, error: UpstreamFailed | UpstreamTimeout, began_at: float
    ) -> UpstreamFailed | UpstreamTimeout:
        """Count `error`, emit its event, and return it."""
        timed_out = isinstance(error, UpstreamTimeout)
        if timed_out:
            self._counts.timed_out += 1
        else:
            self._counts.failed += 1
        seconds = asyncio.get_running_loop().time() - began_at
        self.events.emit(events.UpstreamFailed(self._name, error.message, timed_out, seconds))
        return error
