"""Drivers: how the engine hears of news, and how its SQL reaches PostgreSQL through SQLAlchemy."""

import asyncio
import re
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from pgqueuer.core.tm import TaskManager
from pgqueuer.domain.models import TableChangedEvent, utc_now
from pgqueuer.domain.settings import db_settings
from pgqueuer.ports.driver import NotifyCallback

from stormproof._core.deadline import bounded

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

Rows: TypeAlias = list[dict[str, Any]]

_PATIENCE = 10.0

_NUMBERED = re.compile(r"\$(\d+)")


class LocalDriver:
    """The driver the engine's loop listens to: a wake is a notice, inside this process."""

    def __init__(self) -> None:
        self._callbacks: list[NotifyCallback] = []
        self._shutdown = asyncio.Event()
        self._tasks = TaskManager()
        self._is_told = False
        self._changed = changed_notice()

    @property
    def shutdown(self) -> asyncio.Event:
        """Set when the engine should stop."""
        return self._shutdown

    @property
    def tm(self) -> TaskManager:
        """The engine's own tasks."""
        return self._tasks

    def wake(self) -> None:
        """Let the engine look for jobs; repeated before it has looked, it is one wake."""
        if not self._is_told:
            self._is_told = True
            self.tell(self._changed)

    def looking(self) -> None:
        """Note that the engine looks now, so that what comes later wakes it again."""
        self._is_told = False

    def tell(self, notice: str) -> None:
        """Hand a notice to the engine."""
        for callback in self._callbacks:
            callback(notice)

    async def notify(self, channel: str, payload: str) -> None:
        """Hand a notice of the engine back to it: its health check asks whether it hears."""
        self.tell(payload)

    async def add_listener(self, channel: str, callback: NotifyCallback) -> None:
        """Call `callback` with each notice."""
        self._callbacks.append(callback)

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        """Not for this driver: the store has its own."""
        raise NotImplementedError

    async def execute(self, query: str, *args: object) -> str:
        """Not for this driver: the store has its own."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._callbacks.clear()


class EngineDriver(LocalDriver):
    """Runs the engine's SQL, each statement committed by itself, on connections of a pool.

    Each has 10 s, or what the deadline leaves: a server that went silent must not hold the
    worker for as long as TCP waits.
    """

    def __init__(self, engine: "AsyncEngine") -> None:
        super().__init__()
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        """Run one statement and return its rows."""
        async with self._connected() as connection:
            rows: Rows = await connection.run_sync(fetch, query, args)
            return rows

    async def execute(self, query: str, *args: object) -> str:
        """Run one statement."""
        async with self._connected() as connection:
            await connection.run_sync(run, query, args)
        return ""

    @asynccontextmanager
    async def _connected(self) -> "AsyncIterator[AsyncConnection]":
        limit = bounded(_PATIENCE)
        async with asyncio.timeout(limit + 1), self._engine.connect() as connection:
            raw = await _living(connection)
            # A statement that is cancelled on asyncpg waits, without an end, until the server
            # has taken a request to cancel it: one that is silent takes none. Its socket goes.
            terminate = getattr(raw, "terminate", None)
            if terminate is None:
                yield connection
                return
            timer = asyncio.get_running_loop().call_later(limit, terminate)
            try:
                yield connection
            finally:
                timer.cancel()


async def _living(connection: "AsyncConnection") -> Any:
    """Return the driver's connection; one that the server has ended gives way to another."""
    while True:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        if not _has_ended(raw):
            return raw
        await connection.invalidate()


def _has_ended(raw: Any) -> bool:
    """Whether the server has ended an idle connection; it is listened to, not asked.

    Psycopg notices when it is used. Idle, a server says nothing but its goodbye, and what else it
    may say (that a setting has changed) is worth a new connection.
    """
    if hasattr(raw, "is_closed"):
        return bool(raw.is_closed())
    if raw.closed:
        return True
    arrived = select.poll()
    arrived.register(raw.fileno(), select.POLLIN)
    return bool(arrived.poll(0))


class ConnectionDriver(LocalDriver):
    """Runs the engine's SQL on one connection, for what holds a lock of the session."""

    def __init__(self, connection: "AsyncConnection") -> None:
        super().__init__()
        self._connection = connection

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        """Run one statement and return its rows."""
        rows: Rows = await self._connection.run_sync(fetch, query, args)
        return rows

    async def execute(self, query: str, *args: object) -> str:
        """Run one statement; on a connection that was cut none: its locks are gone with it."""
        if not self._connection.invalidated:
            await self._connection.run_sync(run, query, args)
        return ""


class SessionDriver(LocalDriver):
    """Runs the engine's SQL in a session's transaction.

    Through the session and not on the driver's raw connection, where SQLAlchemy begins the
    transaction lazily: there a job survived the rollback of its caller.
    """

    def __init__(self, session: "AsyncSession") -> None:
        super().__init__()
        self._session = session

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        """Run one statement and return its rows."""
        return await self._session.run_sync(lambda sync: fetch(sync.connection(), query, args))

    async def execute(self, query: str, *args: object) -> str:
        """Run one statement."""
        await self._session.run_sync(lambda sync: run(sync.connection(), query, args))
        return ""


def fetch(connection: "Connection", query: str, args: tuple[object, ...]) -> Rows:
    """Run a statement with `$1` placeholders and return its rows."""
    query, parameters = _spelled(connection, query, args)
    return [dict(row) for row in connection.exec_driver_sql(query, parameters).mappings()]


def run(connection: "Connection", query: str, args: tuple[object, ...]) -> None:
    """Run a statement with `$1` placeholders."""
    query, parameters = _spelled(connection, query, args)
    connection.exec_driver_sql(query, parameters)


def changed_notice() -> str:
    """Return the notice that says the queue has changed."""
    return TableChangedEvent(
        channel=db_settings().channel,
        sent_at=utc_now(),
        type="table_changed_event",
        operation="insert",
        table=db_settings().queue_table,
    ).model_dump_json(exclude={"received_at"})


def _spelled(connection: "Connection", query: str, args: tuple[object, ...]) -> tuple[str, Any]:
    """Return statement and parameters as the driver wants them."""
    if connection.dialect.driver == "asyncpg":
        return query, args
    return _for_psycopg(query), {f"p{n}": value for n, value in enumerate(args, 1)}


@lru_cache(maxsize=64)
def _for_psycopg(query: str) -> str:
    return _NUMBERED.sub(r"%(p\1)s", query.replace("%", "%%"))
