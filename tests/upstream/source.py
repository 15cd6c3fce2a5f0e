"""Something that is fetched: it takes its time, may fail, and counts."""

import asyncio

from stormproof._core.deadline import remaining


class Source:
    """Takes a second to answer, and counts."""

    def __init__(self, seconds: float = 1.0, error: Exception | None = None) -> None:
        self.seconds = seconds
        self.error = error
        self.calls = self.running = 0
        self.told: list[float | None] = []

    async def fetch(self) -> int:
        self.calls += 1
        self.running += 1
        self.told.append(remaining())
        number = self.calls
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.running -= 1
        if self.error is not None:
            raise self.error
        return number
