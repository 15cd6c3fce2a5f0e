"""The wire: one attempt, within its slot, its time, and what the circuit breaker allows."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from typing import Any, Protocol, TypeAlias

from stormproof.errors import CircuitOpen

from ._breaker import CircuitBreaker, Permit
from ._client import Client
from ._faults import Fault, fault_of
from ._outcome import Outcome
from ._statistics import Counts

TIMEOUT_HEADER = "X-Request-Timeout"

OnFault: TypeAlias = Callable[[Exception, float], None]

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


class Wire:
    """Makes single attempts, and counts the connections they open.

    Attributes:
        is_told: Whether the client tells `note_connection` of its connections; otherwise each
            request asks for it (httpcore2's trace, which costs a call a tenth).
    """

    def __init__(
        self, counts: Counts, *, limit: Limit | None, breaker: CircuitBreaker | None
    ) -> None:
        self._counts = counts
        self._limit = limit
        self._breaker = breaker
        self.is_told = False

    async def attempt(self, client: Client, request: Any, ends_at: float) -> Outcome:
        """Send `request` and return how that ended; its caller gives it up at `ends_at`."""
        if self._breaker is None:
            return await self._sent(client, request, ends_at)
        try:
            permit = self._breaker.permit()
        except CircuitOpen as exc:
            return Outcome(error=exc)
        with _Telling(permit, ends_at) as told:
            outcome = await self._sent(client, request, ends_at)
            told.by(outcome)
            return outcome

    async def opened(
        self, held: AsyncExitStack, client: Client, request: Any, ends_at: float
    ) -> tuple[Outcome, OnFault]:
        """Send `request` and return its outcome, an answer with its body unread.

        The slot and the answer are in `held`.

        Returns:
            The outcome, and what wants to be told of a fault of the body and its seconds.
        """
        if self._breaker is None:
            return await self._sent_and_held(held, client, request, ends_at), _ignored
        try:
            permit = self._breaker.permit()
        except CircuitOpen as exc:
            return Outcome(error=exc), _ignored
        told = held.enter_context(_Telling(permit, ends_at))
        outcome = await self._sent_and_held(held, client, request, ends_at)
        if permit.is_probe or outcome.error is not None or outcome.response.status_code >= 500:
            told.by(outcome)
        else:
            held.callback(permit.succeeded)
        return outcome, lambda error, seconds: _tell(permit, Outcome(error=error), seconds)

    def note_connection(self) -> None:
        """Count a connection that was made."""
        self._counts.connections_opened += 1

    async def _sent(self, client: Client, request: Any, ends_at: float) -> Outcome:
        try:
            async with self._slot():
                return Outcome(await client.send(self._prepared(request, ends_at)))
        except Exception as exc:
            return Outcome(error=exc)

    async def _sent_and_held(
        self, held: AsyncExitStack, client: Client, request: Any, ends_at: float
    ) -> Outcome:
        try:
            await held.enter_async_context(self._slot())
            response = await client.send(self._prepared(request, ends_at), stream=True)
        except Exception as exc:
            return Outcome(error=exc)
        held.push_async_callback(response.aclose)
        return Outcome(response)

    def _slot(self) -> AbstractAsyncContextManager[Any]:
        return _NO_SLOT if self._limit is None else self._limit.slot()

    def _prepared(self, request: Any, ends_at: float) -> Any:
        """Return `request`, which tells how much time is left, and has its connections counted."""
        left = max(0.0, ends_at - asyncio.get_running_loop().time())
        request.headers[TIMEOUT_HEADER] = f"{left:.3f}"
        extensions = None if self.is_told else getattr(request, "extensions", None)
        if extensions is not None:
            extensions.setdefault("trace", self._trace)  # unless somebody else is told
        return request

    async def _trace(self, name: str, details: dict[str, Any]) -> None:
        if name in _CONNECTED:
            self.note_connection()


class _Telling:
    """Tells a permit how its attempt ended; given up at its end, it was late."""

    __slots__ = ("_began_at", "_ends_at", "_loop", "_permit")

    def __init__(self, permit: Permit, ends_at: float) -> None:
        self._permit = permit
        self._ends_at = ends_at
        self._loop = asyncio.get_running_loop()
        self._began_at = self._loop.time()

    def by(self, outcome: Outcome) -> None:
        _tell(self._permit, outcome, self._loop.time() - self._began_at)

    def __enter__(self) -> "_Telling":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        now = self._loop.time()
        if kind is asyncio.CancelledError and now >= self._ends_at - _TIMER_EARLY:
            self._permit.late(now - self._began_at)
        self._permit.abandoned()  # when nothing was told


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


def _ignored(error: Exception, seconds: float) -> None:
    """Nobody wants to know."""
