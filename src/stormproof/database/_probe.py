"""The probe: asks a server something small; one that is silent keeps nobody waiting."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class NoAnswer(Exception):
    """The server did not answer; its text is in words that anybody may read."""


class Probe(Generic[T]):
    """Asks one question at a time.

    Args:
        ask: Asks the server, and raises when it cannot.
        limit: Seconds the answer may take.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], *, limit: float = 1.0) -> None:
        self._ask = ask
        self._limit = limit
        self._asking: asyncio.Future[T] | None = None

    @property
    def is_pending(self) -> bool:
        """Whether an earlier question has not come to its end."""
        return self._asking is not None and not self._asking.done()

    async def answer(self) -> T:
        """Ask; what `ask` raises is raised.

        Raises:
            NoAnswer: There was no answer in time, or the question before has not ended yet.
        """
        if self.is_pending:
            raise NoAnswer("the server does not answer")
        asking = self._asking = asyncio.ensure_future(self._ask())
        done, _ = await asyncio.wait((asking,), timeout=self._limit)
        if not done:
            # Not awaited here: the driver takes its time to give up a silent connection.
            asking.cancel()
            asking.add_done_callback(_retrieve)
            raise NoAnswer(f"the server does not answer within {self._limit:g} s")
        if asking.cancelled():
            raise NoAnswer("the probe was cancelled")
        return asking.result()

    async def stop(self) -> None:
        """Give up a question that is under way; twice is harmless.

        Waits as long as the driver takes to give up a connection (2 s with a silent network).
        """
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait((self._asking,))
            _retrieve(self._asking)


def _retrieve(asked: "asyncio.Future[T]") -> None:
    with contextlib.suppress(asyncio.CancelledError):
        asked.exception()
