"""PostgreSQL dies in the middle, and comes back."""

# ruff: noqa: PT012  # what must raise here is a whole block: a unit of work

import asyncio
import fcntl
import itertools
import os
import re
import socket
import termios
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy import text

from stormproof._core.deadline import Deadline, in_force
from stormproof.database import Database
from stormproof.errors import CommitUnknown, DatabaseUnavailable, DeadlineExceeded
from tests.harness import until
from tests.harness.client import drop_all_that_comes

from .model import Item, Model, names


@pytest.fixture
async def database(driver_url: str) -> AsyncIterator[Database]:
    database = Database(driver_url, pool_size=2, max_overflow=0, max_wait=1)
    async with database:
        async with database.engine.begin() as connection:
            await connection.run_sync(Model.metadata.create_all)
        yield database
        assert database.statistics().in_use == 0


_WORDS = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0"
GOODBYE = b"E" + (len(_WORDS) + 4).to_bytes(4) + _WORDS
"""What a server that is killed says last."""


def message_ends(answers: bytes) -> list[int]:
    """Return where each message of the server ends; these are small, so none is cut in two."""
    if answers == b"N":  # no TLS here
        return [1]
    ends = [0]
    while ends[-1] < len(answers):
        length = int.from_bytes(answers[ends[-1] + 1 : ends[-1] + 5])
        ends.append(ends[-1] + 1 + length)
    assert ends[-1] == len(answers)
    return ends[1:]


class Relay:
    """Stands between us and the server, and can be stopped, started and made silent."""

    def __init__(self, server_url: str) -> None:
        parts = urlsplit(server_url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = parts.hostname, parts.port
        self._parts = parts
        self._server: asyncio.Server | None = None
        self._port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_silent = False
        self.cuts_answers = False
        self.goodbye_after: int | None = None

    @property
    def url(self) -> str:
        return self._parts._replace(netloc=f"postgres@127.0.0.1:{self._port}").geturl()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def say_goodbye(self) -> None:
        """Send each client what a server that is killed says last; its sockets stay open."""
        self.is_silent = True
        for client in self._clients:
            client.write(GOODBYE)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:  # the server is down, and who comes has to see it
            writer.transport.abort()
            self._tasks.discard(task)
            return
        self._writers |= {writer, server_writer}
        self._clients.add(writer)
        try:
            await asyncio.gather(
                self._pipe(reader, server_writer),
                self._pipe(server_reader, writer, is_answer=True),
            )
        finally:
            self._writers -= {writer, server_writer}
            self._clients.discard(writer)
            self._tasks.discard(task)

    async def _pipe(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool = False
    ) -> None:
        with suppress(ConnectionError):
            told = 0
            while data := await reader.read(65536):
                if is_answer and self.cuts_answers:
                    break
                if is_answer and self.goodbye_after is not None:
                    ends = message_ends(data)
                    told += len(ends)
                    if told > self.goodbye_after:
                        writer.write(data[: ends[self.goodbye_after - told]] + GOODBYE)
                        break
                if not self.is_silent:
                    writer.write(data)
        writer.close()


@pytest.fixture
async def relay(driver_url: str) -> AsyncIterator[Relay]:
    relay = Relay(driver_url)
    await relay.start()
    yield relay
    await relay.stop()


async def cut_all_connections(url: str) -> None:
    """Do what a restart of the server does to its clients; returns when they are cut."""
    connection = await asyncpg.connect(re.sub(r"\+\w+", "", url))
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()


async def test_a_connection_that_dies_between_statements(
    database: Database, driver_url: str
) -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        async with database.session() as session:
            session.add(Item(name="a"))
            await session.flush()
            await cut_all_connections(driver_url)
            await session.execute(text("SELECT 1"))
    assert (caught.value.status, caught.value.retry_after) == (503, 1)
    assert await names(database) == []


async def test_a_connection_that_dies_during_a_statement(
    database: Database, driver_url: str
) -> None:
    async def sleep() -> None:
        async with database.session() as session:
            await session.execute(text("SELECT 1"))
            await session.execute(text("SELECT pg_sleep(20)"))

    task = asyncio.create_task(sleep())
    while not task.done():
        await cut_all_connections(driver_url)
    with pytest.raises(DatabaseUnavailable):
        await task
    assert await names(database) == []


async def test_a_connection_that_dies_before_the_commit_says_that_nothing_is_stored(
    database: Database, driver_url: str
) -> None:
    with pytest.raises(DatabaseUnavailable, match="before the COMMIT: nothing is stored") as caught:
        async with database.session() as session:
            session.add(Item(name="a"))
            await session.flush()
            await cut_all_connections(driver_url)
    assert (type(caught.value), caught.value.retry_after) == (DatabaseUnavailable, 1)
    assert await names(database) == []


async def test_a_server_that_says_goodbye_is_unavailable_before_its_socket_ends(
    postgres_database: str,
) -> None:
    """asyncpg refuses what is sent in between by an error that is none of the database's."""
    relay = Relay(postgres_database)
    await relay.start()
    database = Database(relay.url, pool_size=1, max_overflow=0, unready_after=None)
    async with database:
        for is_committing in (False, True):
            with pytest.raises(DatabaseUnavailable):
                async with asyncio.timeout(20), database.session() as session:
                    await session.execute(text("SELECT 1"))
                    relay.say_goodbye()
                    await asyncio.sleep(0.05)  # until the driver has read it
                    if not is_committing:
                        await session.execute(text("SELECT 1"))
            relay.is_silent = False
        assert database.statistics().in_use == 0
        await work(database)
    await relay.stop()


async def test_a_server_that_says_goodbye_after_any_of_its_messages_is_unavailable(
    relay: Relay,
) -> None:
    """Also while connecting, where its last word can come in one piece with its greeting."""
    database = Database(relay.url, pool_size=1, max_overflow=0, unready_after=None)
    async with database:
        await work(database)
        for told in itertools.count():
            await database.engine.dispose()
            relay.goodbye_after = told
            try:
                await asyncio.wait_for(work(database), 20)
            except (DatabaseUnavailable, CommitUnknown):
                pass  # nothing of the driver's own
            else:
                break  # all was said before
            assert database.statistics().in_use == 0
            relay.goodbye_after = None
            await work(database)
        assert told > 10


async def test_a_commit_whose_answer_is_lost_says_that_it_is_unknown(relay: Relay) -> None:
    """It is stored here, and nobody could know: to try again without a look would do it twice."""
    database = Database(relay.url, pool_size=1, max_overflow=0, unready_after=None)
    async with database:
        async with database.engine.begin() as connection:
            await connection.run_sync(Model.metadata.create_all)

        with pytest.raises(CommitUnknown, match="unknown") as caught:
            async with database.session() as session:
                session.add(Item(name="a"))
                await session.flush()
                relay.cuts_answers = True
        assert (caught.value.status, caught.value.retry_after) == (503, None)
        relay.cuts_answers = False
        assert await names(database) == ["a"]


async def test_idle_connections_that_died_are_replaced_unseen(
    database: Database, driver_url: str
) -> None:
    assert await names(database) == []
    await cut_all_connections(driver_url)
    assert await names(database) == []


async def test_while_the_server_is_down_callers_get_503_and_then_service_again(
    relay: Relay,
) -> None:
    database = Database(relay.url, pool_size=2, max_overflow=0, max_wait=30)
    async with database:
        await work(database)
        await relay.stop()
        began_at = time.monotonic()
        outcomes = await asyncio.gather(
            *(work(database) for _ in range(10)), return_exceptions=True
        )
        # Also those that waited for one of the two places learn it, long before their max_wait.
        assert time.monotonic() - began_at < 5
        assert {type(one) for one in outcomes} == {DatabaseUnavailable}
        assert database.statistics().in_use == 0
        await relay.start()
        await work(database)
        assert database.statistics().in_use == 0


async def test_a_server_that_goes_silent_does_not_hold_the_caller_past_the_deadline(
    relay: Relay,
) -> None:
    database = Database(relay.url, pool_size=1, max_overflow=0)
    async with database:
        await work(database)
        relay.is_silent = True
        began_at = time.monotonic()
        with in_force(Deadline(began_at + 0.2)), pytest.raises(DeadlineExceeded):
            await work(database)
        # asyncpg and SQLAlchemy say goodbye for up to 2 s before they give up the connection.
        assert time.monotonic() - began_at < 4
        relay.is_silent = False
        await work(database)


@pytest.mark.storm
@pytest.mark.parametrize("is_running", [False, True])
async def test_a_network_that_goes_silent_holds_nobody_without_a_deadline_for_long(
    driver_url: str, is_running: bool
) -> None:
    """The kernel would repeat a statement for a quarter of an hour, or wait for ever."""
    async with Database(driver_url, pool_size=1, max_overflow=0, unready_after=None) as database:
        async with database.engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
        is_asyncpg = hasattr(driver, "_transport")
        line = driver._transport.get_extra_info("socket") if is_asyncpg else driver
        with socket.socket(fileno=os.dup(line.fileno())) as end:
            waiting = asyncio.create_task(work(database, seconds=100 if is_running else 0))
            if is_running:
                await statement_runs(driver_url)
                await until(lambda: is_acknowledged(end))
            drop_all_that_comes(end)
            async with asyncio.timeout(60):
                with suppress(DatabaseUnavailable):
                    await waiting
                await work(database)
        assert database.statistics().in_use == 0


def is_acknowledged(end: socket.socket) -> bool:
    """Whether the peer's kernel has acknowledged all that was sent."""
    return fcntl.ioctl(end, termios.TIOCOUTQ, b"\0" * 4) == b"\0" * 4


async def statement_runs(url: str) -> None:
    """Wait until the server is in the middle of a sleep."""
    connection = await asyncpg.connect(re.sub(r"\+\w+", "", url))
    try:
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND wait_event = 'PgSleep'"
        ):
            await asyncio.sleep(0.01)
    finally:
        await connection.close()


async def work(database: Database, seconds: float = 0) -> None:
    async with database.session() as session:
        await session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})


async def test_the_start_waits_for_a_server_that_is_starting_too(relay: Relay) -> None:
    await relay.stop()
    database = Database(relay.url, wait_for_start=30)
    opening = asyncio.create_task(database.__aenter__())
    await asyncio.sleep(0.2)
    assert not opening.done()
    await relay.start()
    await opening
    await work(database)
    await database.close()


async def test_the_start_gives_up_after_its_time(relay: Relay) -> None:
    await relay.stop()
    began_at = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        await Database(relay.url, wait_for_start=0.3).__aenter__()
    assert time.monotonic() - began_at >= 0.3
