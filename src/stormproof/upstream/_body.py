"""The body of an answer that is read piece by piece, each in its time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2

from stormproof._core.deadline import bounded


class Body(httpx2.AsyncByteStream):
    """Passes the pieces of `stream` on, and says what went wrong as an error of ours.

    Args:
        stream: The body as it comes.
        idle: Seconds to wait for each piece, and never past the deadline in force.
        translated: Returns the error to raise for another; None: the error itself.
    """

    def __init__(
        self, stream: Any, *, idle: float, translated: Callable[[Exception], Exception | None]
    ) -> None:
        self._stream = stream
        self._idle = idle
        self._translated = translated

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = aiter(self._stream)
        try:
            while (piece := await self._next(pieces)) is not None:
                yield piece
        finally:
            close = getattr(pieces, "aclose", None)
            if close is not None:
                await close()

    async def _next(self, pieces: AsyncIterator[bytes]) -> bytes | None:
        try:
            async with asyncio.timeout(bounded(self._idle)):
                return await anext(pieces, None)
        except Exception as exc:
            error = self._translated(exc)
            if error is None:
                raise
            raise error from exc

    async def aclose(self) -> None:
        """Close the answer; what was not read is given up with its connection."""
        await self._stream.aclose()
