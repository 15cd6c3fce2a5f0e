"""The watch: tells the lifecycle while no connection can be had, and when one can again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from stormproof._core.lifecycle import Lifecycle

from ._gate import Gate
from ._probe import NoAnswer, Probe

_log = logging.getLogger("stormproof")

_LOOK_EVERY = 1.0
_LOOK_AGAIN = 0.5
"""Seconds to the next look while something is wrong."""
_AT_LEAST = 2
"""Looks in a row that must find nothing: after a stalled loop one alone may be late, not wrong."""


class Watch:
    """Looks once a second whether a connection could be had, and says so in the readiness.

    A look never waits in line: when all connections are in use it compares how many came back,
    and asks the server only when there is one to spare. So it takes nothing from a caller, and
    costs an idle service one small query a second.

    Args:
        gate: The gate of the pool.
        ask: Takes a connection and asks the server something small; raises when it cannot.
        name: What readiness calls it.
        unready_after: Seconds without a connection after which readiness is lost.
        lifecycle: Whose readiness it is.
    """

    def __init__(
        self,
        gate: Gate,
        ask: Callable[[], Awaitable[None]],
        *,
        name: str,
        unready_after: float,
        lifecycle: Lifecycle,
    ) -> None:
        self._gate = gate
        self._probe = Probe(ask)
        self._name = name
        self._unready_after = unready_after
        self._lifecycle = lifecycle
        self._came_back: int | None = None
        self._watching = asyncio.create_task(self._watch(), name=f"watch of {name}")

    async def stop(self) -> None:
        """Stop looking, and wait for the look under way to be given up; twice is harmless."""
        self._watching.cancel()
        await asyncio.wait((self._watching,))
        await self._probe.stop()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        had_one_at, misses = loop.time(), 0
        while True:
            await asyncio.sleep(_LOOK_AGAIN if misses else _LOOK_EVERY)
            trouble = await self._look()
            if trouble is None:
                had_one_at, misses = loop.time(), 0
                self._tell_ready()
                continue
            misses += 1
            if misses >= _AT_LEAST and loop.time() - had_one_at >= self._unready_after:
                self._tell_unready(trouble)

    async def _look(self) -> str | None:
        """Return why no connection can be had, in words that anybody may read; None: one can."""
        if not self._probe.is_pending and self._gate.in_use >= self._gate.capacity:
            return self._look_at_full_pool()
        self._came_back = None
        return await self._look_at_server()

    def _look_at_full_pool(self) -> str | None:
        before, self._came_back = self._came_back, self._gate.released
        if before is None or before != self._came_back:
            return None
        return f"none of {self._gate.capacity} connections comes free"

    async def _look_at_server(self) -> str | None:
        try:
            await self._probe.answer()
        except NoAnswer as silence:
            return str(silence)
        except Exception as error:
            # Its type alone: an error's text may hold addresses, and anybody may ask /readyz.
            return f"no connection: {type(error).__name__}"
        return None

    def _tell_unready(self, why: str) -> None:
        if self._name not in self._lifecycle.unready:
            _log.warning("%s: %s; /readyz answers 503 until that is over", self._name, why)
        self._lifecycle.declare_unready(self._name, why)

    def _tell_ready(self) -> None:
        if self._name in self._lifecycle.unready:
            _log.warning("%s: a connection can be had again", self._name)
        self._lifecycle.declare_ready(self._name)
