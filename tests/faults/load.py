"""A steady load that is kept up across a shutdown, and what became of each request."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.harness import Answer, Connection, Ended, request

_PAUSE = 0.005
"""Seconds between two requests of one client: enough to leave the server some of the machine."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request: when it was begun (monotonic seconds), by which kind of client, its end.

    `is_first` tells the first request of a connection.
    """

    begun_at: float
    client: str
    answer: Answer
    is_first: bool = True

    @property
    def is_served(self) -> bool:
        return self.answer.status == 200 and self.answer.ended == "complete"

    @property
    def is_refused(self) -> bool:
        """Whether nobody listened any more, which every client may safely try elsewhere."""
        return self.answer.ended == "refused"

    @property
    def is_turned_away(self) -> bool:
        """Whether it came too late: refused, or reset on a connection that was just being made.

        Between the last `accept` and the closing of a listener lie some microseconds, in which
        the kernel takes clients in that it resets at once.
        """
        is_reset = self.is_first and self.answer.status == 0 and self.answer.ended == "reset"
        return self.is_refused or is_reset

    def __str__(self) -> str:
        return f"{self.client}: {self.answer.status} {self.answer.ended}"


@dataclass(slots=True)
class Load:
    """Clients that send one request after another until nobody listens.

    `new` clients open a connection for each request; `kept` ones keep theirs until an answer
    says `Connection: close`, as every HTTP library does.
    """

    port: int
    path: str
    outcomes: list[Outcome] = field(default_factory=list)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def new(self) -> None:
        while not self.stopped.is_set():
            begun_at = time.monotonic()
            answer = await request(self.port, "GET", self.path, timeout=20.0)
            if self._note(begun_at, "new", answer).is_refused:
                return
            await asyncio.sleep(_PAUSE)

    async def kept(self) -> None:
        while not self.stopped.is_set():
            begun_at = time.monotonic()
            try:
                connection = await Connection.open(self.port)
            except ConnectionError as error:
                ended: Ended = "refused" if isinstance(error, ConnectionRefusedError) else "reset"
                self._note(begun_at, "kept", Answer(0, {}, b"", ended, 0.0))
                return
            async with connection:
                await self._use(connection)

    async def _use(self, connection: Connection) -> None:
        is_first = True
        while not self.stopped.is_set():
            begun_at = time.monotonic()
            answer = await connection.request("GET", self.path, timeout=20.0)
            outcome = self._note(begun_at, "kept", answer, is_first=is_first)
            if not outcome.is_served or answer.headers.get("connection") == "close":
                return
            is_first = False
            await asyncio.sleep(_PAUSE)

    def _note(
        self, begun_at: float, client: str, answer: Answer, *, is_first: bool = True
    ) -> Outcome:
        outcome = Outcome(begun_at, client, answer, is_first)
        self.outcomes.append(outcome)
        return outcome


@asynccontextmanager
async def steady_load(port: int, path: str, *, new: int, kept: int) -> AsyncIterator[Load]:
    """Keep the clients busy inside the block; at its end each finishes its request and stops."""
    load = Load(port, path)
    clients = [asyncio.create_task(load.new()) for _ in range(new)]
    clients += [asyncio.create_task(load.kept()) for _ in range(kept)]
    try:
        yield load
        load.stopped.set()
        await asyncio.gather(*clients)
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
