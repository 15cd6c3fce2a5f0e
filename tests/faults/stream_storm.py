"""What a stream storm consists of: servers that are restarted, and clients that come and go."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from signal import SIGKILL, Signals

import stormproof
from stormproof.stream import Bus
from tests.harness import ServerProcess, Stream, free_port, serve_app
from tests.harness.stream import StreamEnded

TOPICS = [f"topic-{number}" for number in range(8)]


def bus_of(url: str) -> Bus:
    """Return the bus at `url`, with waits short enough for a storm."""
    kind = stormproof.RedisBus if url.startswith("redis") else stormproof.PostgresBus
    bus: Bus = kind(url, answer_within=1.0, timeout=30.0)
    return bus


class Server:
    """One server process on a port of its own."""

    def __init__(self, bus_url: str) -> None:
        self.port = free_port()
        self._env = {"BUS_URL": bus_url}
        self._running: AsyncExitStack | None = None
        self._process: ServerProcess | None = None

    async def start(self) -> None:
        self._running = AsyncExitStack()
        command = serve_app("tests.faults.stream_service:app", self.port)
        process = ServerProcess(command, env=self._env)
        self._process = await self._running.enter_async_context(process)
        await self._process.wait_ready(self.port, "/readyz", timeout=30.0)

    async def restart(self, number: Signals) -> int:
        """End it by a signal, start it again, and return its exit code."""
        assert self._process is not None
        self._process.signal(number)
        code = await self._process.wait_exit(timeout=15.0)
        await self.stop()
        await self.start()
        return code

    async def stop(self) -> None:
        if self._running is not None:
            await self._running.aclose()
            self._running = None


@asynccontextmanager
async def servers(count: int, bus_url: str) -> AsyncIterator[list[Server]]:
    running = [Server(bus_url) for _ in range(count)]
    try:
        await asyncio.gather(*(server.start() for server in running))
        yield running
    finally:
        await asyncio.gather(*(server.stop() for server in running))


class Client:
    """A browser that loses its connection at random and comes back to any server.

    Attributes:
        got: By topic: the data in the order in which new ids came.
        repeats: Events whose id had come before.
        comings: How often it connected.
        told: What else it was told, by the event's name ("gap" and "reset" are losses).
    """

    def __init__(self, ports: list[int], first_id: str, seed: int) -> None:
        self.got: dict[str, list[str]] = {topic: [] for topic in TOPICS}
        self.repeats = 0
        self.comings = 0
        self.told: Counter[str] = Counter()
        self._ports = ports
        self._id = first_id
        self._seen: set[str] = set()
        self._random = random.Random(seed)

    @property
    def count(self) -> int:
        return len(self._seen)

    async def run(self, until_count: int) -> None:
        while self.count < until_count:
            patience = self._random.randint(20, 1500)
            with suppress(OSError, StreamEnded):  # refused, cut, ended by a drain
                await self._visit(min(until_count - self.count, patience))
            await asyncio.sleep(0.02)

    async def _visit(self, most: int) -> None:
        port = self._random.choice(self._ports)
        headers = {"Last-Event-ID": self._id}
        async with Stream(port, "/events", headers=headers) as stream:
            assert stream.status == 200, stream.status
            self.comings += 1
            before = self.count
            while self.count - before < most:
                event = await stream.next_event(timeout=20.0)
                self._take(event.event, event.data, event.id)

    def _take(self, name: str | None, data: str | None, id: str | None) -> None:
        if id is not None:
            self._id = id
        if name is not None or data is None or id is None:
            self.told[name or "comment"] += 1
            return
        if id in self._seen:
            self.repeats += 1
            return
        self._seen.add(id)
        topic, _, number = data.partition(" ")
        self.got[topic].append(number)


async def harm(servers: list[Server], turn: int) -> None:
    """Restart one of the servers, by turns as a crash and as a deploy."""
    server = servers[turn % len(servers)]
    code = await server.restart(SIGKILL if turn % 2 else Signals.SIGTERM)
    assert code in (0, -SIGKILL), code
