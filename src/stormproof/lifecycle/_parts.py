"""Parts: opened in order, closed in reverse, whatever fails on the way."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from stormproof._core.lifecycle import Lifecycle, Loss, Part
from stormproof.errors import StartFailed, StormproofError

_log = logging.getLogger("stormproof")

_CLOSE_TIMEOUT = 5.0
"""Seconds a part may take to close when no drain has set a nearer shutdown deadline."""

_LAST_MOMENT = 0.2
"""Seconds each part gets to close even when the shutdown deadline has passed."""


@asynccontextmanager
async def opened(parts: Sequence[Part], lifecycle: Lifecycle) -> AsyncIterator[None]:
    """Open the parts in order; close them in reverse order when the block ends.

    Waits for each part's `open` without a limit of its own (a part bounds its own start).
    When one fails or the start is cancelled, those already open are closed.

    Raises:
        StartFailed: A part could not open; a `StormproofError` of the part passes as it is.
    """
    async with AsyncExitStack() as stack:
        for part in parts:
            await _open(part, lifecycle)
            stack.push_async_callback(_close, part, lifecycle)
        yield


async def _open(part: Part, lifecycle: Lifecycle) -> None:
    try:
        await part.open(lifecycle)
    except StormproofError:
        raise
    except Exception as exc:
        reason = f"{type(exc).__name__}: {exc}"
        raise StartFailed(f"part {part.name!r} could not open: {reason}") from exc


async def _close(part: Part, lifecycle: Lifecycle) -> None:
    limit = _CLOSE_TIMEOUT
    if lifecycle.shutdown_at is not None:
        left = lifecycle.shutdown_at - lifecycle.clock.now()
        limit = max(_LAST_MOMENT, min(limit, left))
    try:
        async with asyncio.timeout(limit):
            await part.close()
    except Exception as exc:
        # The other parts still have to be closed, so this one's failure is told, not raised.
        _log.exception("part %r did not close", part.name)
        lifecycle.losses.append(Loss("part", part.name, 0.0, f"close: {type(exc).__name__}"))
