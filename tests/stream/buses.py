"""The buses under test: several of one kind over one log, closed at the end."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from stormproof.prove.faults import FaultProxy
from stormproof.prove.faults._fault import Chunk, Fault
from stormproof.stream._bus import Bus, Entry, Position


async def publish(bus: Bus, count: int, *, topic: str = "t", first: int = 1) -> list[Position]:
    """Append events with the data "1", "2", … one after another."""
    numbers = range(first, first + count)
    return [await bus.append(Entry(topic, str(number))) for number in numbers]


async def read_all(bus: Bus, after: Position, count: int) -> list[Entry]:
    """Read until `count` entries came; each read waits."""
    entries: list[Entry] = []
    while len(entries) < count:
        some = await bus.read(after, limit=7, wait=5.0)
        assert some, f"nothing came after {after}, {len(entries)} of {count} so far"
        entries += some
        after = Position(after.epoch, some[-1].offset)
    return entries


def data(entries: Sequence[Entry]) -> list[str]:
    return [entry.data for entry in entries]


async def begun(work: "asyncio.Task[object]") -> None:
    """Let `work` come to its first wait for a server; a bus says not more than that."""
    done, _ = await asyncio.wait((work,), timeout=0.05)
    assert not done


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[FaultProxy]:
    """Put a proxy before the server of `url`; its own `url` goes through it."""
    parts = urlsplit(url)
    async with FaultProxy.before("bus", "127.0.0.1", parts.port or 0) as proxy:
        at = f"{parts.username}@" if parts.username else ""
        proxy.url = parts._replace(netloc=f"{at}127.0.0.1:{proxy.port}").geturl()
        yield proxy


@dataclass(frozen=True, slots=True)
class SwallowShort(Fault):
    """Nothing short passes: an append that is long arrives, and its short answer does not."""

    def due_at(self, chunk: Chunk) -> float:
        return chunk.arrived_at if chunk.size_bytes > 1000 else math.inf
