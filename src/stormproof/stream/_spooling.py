"""Spooling: what a source of rows yields is written to a spool, to its end."""

import asyncio
import logging
from collections.abc import AsyncIterable, Callable
from typing import Any

from stormproof.errors import ExportTooLarge, StreamIdle

from ._delivery import close_sources
from ._row_encoder import RowEncoder
from ._rows import LINGER, RowSource, items_of
from ._spool import Spool

_log = logging.getLogger("stormproof")


async def spool_rows(
    spool: Spool,
    source: Callable[[], RowSource],
    encoder: RowEncoder,
    *,
    name: str,
    directory: str | None,
    idle_timeout: float,
    claim: Callable[[int], None],
) -> None:
    """Open `spool`, write the rows of `source` to it, and complete it or say why it failed.

    Waits for the source, at most `idle_timeout` seconds for an item, and for the disk. Cancelled:
    the source is closed, and the spool is neither complete nor failed. Raises nothing else.

    Args:
        spool: Where the bytes go.
        source: Gives the rows.
        encoder: Makes bytes of them.
        name: What logs call it.
        directory: Where the file is to be.
        idle_timeout: Seconds the source may take for an item.
        claim: Called with the size of what is to be written; raises when there is no room.
    """
    limit = asyncio.timeout(idle_timeout)
    try:
        async with limit:
            await spool.open(directory)
            items = items_of("Exports.response", source())
            await _write(spool, items, encoder, name, claim, _Idle(limit, idle_timeout))
        spool.complete()
    except Exception as exc:
        error: Exception = exc
        if limit.expired():
            error = StreamIdle(
                f"{name}: the source of the export yielded nothing for {idle_timeout:g} s; "
                f"find what it waits for, or raise idle_timeout"
            )
        _log.error(
            "%s: the export failed after %d bytes: %s: %s",
            name, spool.size, type(error).__name__, error,
        )  # fmt: skip
        spool.fail(error)


class _Idle:
    """The limit on the source's silence; begun anew at most each 50 ms, since that costs 1 us."""

    def __init__(self, limit: asyncio.Timeout, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._now = asyncio.get_running_loop().time
        self._begun_at = self._now()

    def is_due(self) -> bool:
        """Begin anew, if that was long ago, and return whether it was."""
        now = self._now()
        if now - self._begun_at < LINGER:
            return False
        self._begun_at = now
        self._limit.reschedule(now + self._seconds)
        return True


async def _write(
    spool: Spool,
    items: AsyncIterable[Any],
    encoder: RowEncoder,
    name: str,
    claim: Callable[[int], None],
    idle: _Idle,
) -> None:
    """Write what `items` yields, and close them however it ends."""

    async def append(chunk: bytes) -> None:
        if chunk:
            claim(len(chunk))
            try:
                await spool.write(chunk)
            except OSError as exc:
                raise ExportTooLarge(
                    f"{name}: the disk did not take the export after {spool.size:,} bytes: {exc}; "
                    f"lower max_bytes to what it has, or name another directory"
                ) from exc

    iterator = aiter(items)
    try:
        async for item in iterator:
            for chunk in encoder.add(item):
                await append(chunk)
            if idle.is_due():
                await append(encoder.flush())
        await append(encoder.close())
    finally:
        await close_sources(name, iterator, *([] if iterator is items else [items]))
