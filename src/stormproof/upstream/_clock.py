"""The loop's clock, by which the time of calls is counted, so that a virtual loop can turn it."""

import asyncio


class LoopClock:
    """The `Clock` that reads the running loop's time."""

    __slots__ = ()

    def now(self) -> float:
        """Return the loop's time, in seconds."""
        return asyncio.get_running_loop().time()
