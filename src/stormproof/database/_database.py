"""The database of a service: an engine, its pool, and the units of work on it."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from stormproof import errors
from stormproof._arguments import check_seconds
from stormproof._core.events import Event, Events
from stormproof._core.lifecycle import InFlight, Lifecycle, Loss
from stormproof._core.primitives import register

from ._access import Access
from ._autocommit import AutocommitSession
from ._engine import read_only_options
from ._ledger import Holder, Ledger, UseTime
from ._pool import GatedPool, PoolStatistics, urgent
from ._pooling import Pooling
from ._read_engine import new_read_engine
from ._replicas import new_replicas
from ._retry import Retries
from ._session import DatabaseSession
from ._settings import (
    check_pool,
    check_reserve,
    checked_options,
    parsed_url,
    place,
)
from ._start import connect
from ._sync import SyncUnits
from ._unit import UnitOfWork
from ._waiting import Limits
from ._watch import Watch


class Database(Access):
    """A pool of connections and the units of work on it.

    It is a part of the lifecycle: opened with the service, drained after the last request, then
    closed. In a script or a test, `async with database:` opens and closes it. The constructor
    does no I/O.

    Args:
        url: "sqlite:///items.db" (driver aiosqlite) or "postgresql://user:password@host/name"
            (driver asyncpg; with the scheme "postgresql+psycopg", psycopg). An in-memory SQLite
            is refused.
        pool_size: Connections kept open, at least 1.
        max_overflow: Connections opened beyond that while many are needed, 0 or more.
        max_wait: Longest wait for a connection, in seconds; 0 means not to wait. The deadline
            of the request shortens it.
        reserve: Connections that only requests whose response has not begun may take, 0 or more:
            streams and background work can never take all.
        wait_for_start: Seconds for which the first connect is repeated, for a server that is
            starting, too; 0 means to try once.
        pre_ping: Whether a connection is tested when it is taken from the pool: always whether
            it was closed, and after 0.1 s of rest whether the server answers (with psycopg
            always).
        idle_in_transaction: Seconds without a statement after which a holder is reported, once,
            by a log line and the event `ConnectionLeftIdle`; None for never.
        trace: Whether to note the stack at each checkout, for the reports (about 20 µs each).
        unready_after: Seconds without a connection to be had after which `/readyz` answers 503,
            until there is one again; at least about 1.5 s pass, for it is looked once a second.
            None: the service is ready without this database.
        replicas: URLs of streaming standbys of this PostgreSQL, for `read_session`. Each has a pool
            of its own, of this size, and one connection more for looks.
        max_lag: Seconds a replica may be behind, else reads go elsewhere; None for any.
        engine_options: Further arguments of SQLAlchemy's `create_async_engine`.
        name: What messages and the drain's report call it.

    Raises:
        InvalidSetting: An argument cannot be used; the message names it, never the password.
        MissingExtra: The driver for the URL is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 20,
        max_overflow: int = 10,
        max_wait: float = 2.0,
        reserve: int = 0,
        wait_for_start: float = 0.0,
        pre_ping: bool = True,
        idle_in_transaction: float | None = 5.0,
        trace: bool = False,
        unready_after: float | None = 1.0,
        replicas: Sequence[str] = (),
        max_lag: float | None = 5.0,
        engine_options: Mapping[str, Any] | None = None,
        name: str = "database",
    ) -> None:
        check_pool(pool_size, max_overflow, max_wait)
        check_reserve(reserve, pool_size + max_overflow)
        check_seconds("Database", or_zero=True, wait_for_start=wait_for_start)
        check_seconds(
            "Database", or_none=True, idle_in_transaction=idle_in_transaction, max_lag=max_lag
        )
        check_seconds("Database", or_zero=True, or_none=True, unready_after=unready_after)
        options = checked_options(engine_options)
        self._url = parsed_url(url)
        self._name = name
        self._place = place(self._url)
        self._pool_size = pool_size
        self._events = Events()
        self._limits = Limits()
        self._unready_after = unready_after
        self._watch: Watch | None = None
        self._is_open = False
        self._wait_for_start = wait_for_start
        self._lifecycle: Lifecycle | None = None
        self._ledger = self._new_ledger(idle_in_transaction, trace=trace)
        self._sync_options = {k: v for k, v in options.items() if k != "connect_args"}
        self._pre_ping = pre_ping
        pooling = Pooling(
            name=name,
            size=pool_size,
            max_overflow=max_overflow,
            max_wait=max_wait,
            reserve=reserve,
            pre_ping=pre_ping,
            options=options,
            ledger=self._ledger,
            emit=self._emit,
        )
        self._gate = pooling.new_gate()
        self._writers = pooling.new_writers(self._place)
        self._engine = self._read_engine = pooling.new_engine(self._url, self._gate, self._writers)
        self._replicas = new_replicas(replicas, self._url, pooling, max_lag=max_lag)
        if self._replicas is not None:
            self._read_engine = new_read_engine(self._engine, self._replicas)
        register("database", self)

    def __repr__(self) -> str:
        return f"Database({self._url.render_as_string(hide_password=True)!r})"

    @property
    def name(self) -> str:
        """What messages and the drain's report call it."""
        return self._name

    @property
    def engine(self) -> AsyncEngine:
        """SQLAlchemy's engine, for migrations: `async with database.engine.begin() as connection`.

        Its connections come from the same pool; who opens them closes them.
        """
        return self._engine

    def session(self) -> AbstractAsyncContextManager[DatabaseSession]:
        """Return one unit of work: committed when the block ends, undone when it raises.

        Entering waits for nothing; the first statement takes a connection, and waits for it at
        most `max_wait` seconds and never past the deadline. When the block ends cleanly, the
        COMMIT has succeeded before the next line runs. When it raises, or is cancelled, all is
        rolled back. The connection is back in the pool in every case.

        On SQLite a unit of work is a writer (BEGIN IMMEDIATE): one at a time, first come first
        served. Use `read_session` for what only reads.

        Raises:
            NotStarted: The database is not open.
            CommitFailed: The database refused the COMMIT; nothing was stored.
            ConstraintFailed: It did because a constraint was broken (409); nothing was stored.
            DeadlineExceeded: The deadline had passed at the end; nothing was stored.
            DatabaseUnavailable: The connection was lost; nothing was stored.
            CommitUnknown: It was lost during the COMMIT; the work may be stored.
        """
        return self._unit_of_work({})

    def read_session(self) -> AbstractAsyncContextManager[DatabaseSession]:
        """Return a unit of work that only reads: the database refuses its writes.

        As `session`, but on SQLite it waits for no writer and holds none up. What it reads is
        one snapshot on SQLite; on PostgreSQL it is a READ ONLY transaction.

        With `replicas` each transaction goes to one that answered the last look and is behind by
        no more than `max_lag` seconds, the least busy one, else to the database itself. One that
        cannot be connected to is skipped, and the caller knows nothing of it; one that is lost in
        the middle of a statement raises DatabaseUnavailable, and is skipped until it answers.
        What this process has just written may be missing: read that with `session`.
        """
        return self._unit_of_work(read_only_options(self._url), engine=self._read_engine)

    def autocommit(self) -> AbstractAsyncContextManager[DatabaseSession]:
        """Return a session for a handler that lives long, as a WebSocket: it holds no connection.

        Each statement takes a connection, is committed, and gives it back before it returns.
        What a statement changed stays, also when the block raises afterwards. On SQLite each
        statement is a writer. `stream`, `connection` and `begin` raise NoTransaction.
        """
        return self._unit_of_work({}, AutocommitSession)

    def transaction(self, *, retries: int = 3) -> Retries:
        """Return a decorator that runs an async function as a unit of work, again if need be.

        The function gets the session as its first argument; who calls it leaves that out. When
        another transaction was in the way (a serialization failure or a deadlock of PostgreSQL,
        the lock of SQLite), everything it did is undone and it is called again, after a short
        random pause, at most `retries` times and never past the deadline. It is not called
        again when it has committed in its middle. What it does outside of the database it does
        again: put that into `session.on_commit`.

        Args:
            retries: How often it is repeated at most, 0 or more.

        Raises (when it is called):
            TransactionConflict: It was repeated as often as it may be; nothing is stored.
            All that `session` raises.
        """
        return Retries(lambda: self._unit_of_work({}), retries=retries, events=lambda: self._events)

    def statistics(self) -> PoolStatistics:
        """Return the pool's numbers of this moment."""
        opened = self._engine.pool
        assert isinstance(opened, GatedPool)
        return PoolStatistics(
            size=self._pool_size,
            in_use=self._gate.in_use,
            waiting=self._gate.waiting + self._writers.waiting,
            overflow=max(0, opened.overflow()),
            timeouts=self._gate.timeouts + self._writers.timeouts,
            replicas=() if self._replicas is None else self._replicas.statistics(),
        )

    def holders(self) -> tuple[Holder, ...]:
        """Return who holds a connection at this moment, the longest first."""
        return self._ledger.holders()

    def use_time(self) -> Mapping[str, UseTime]:
        """Return how connections were used since the start, by method and route template.

        What no request asked for is under "no request", what matched no route under "no route".
        Which routes hold connections longest is where a pool is won back.
        """
        return self._ledger.use_time()

    async def open(self, lifecycle: Lifecycle) -> None:
        """Connect once, so that a wrong URL or a dead server stops the start; then keep watch.

        Waits at most 5 s for the server, and tries again for `wait_for_start`. Cancelled: nothing
        is left open. From here to the drain a task looks once a second whether a connection can
        be had: see `unready_after`.

        Raises:
            DatabaseUnavailable: The server cannot be reached or refused us.
            StartFailed: It was reached, but does not work with these settings.
        """
        self._events, self._lifecycle = lifecycle.events, lifecycle
        await self._start()
        if self._unready_after is not None:
            self._watch = Watch(
                self._gate,
                self._ask_server,
                name=f"part {self._name!r}",
                unready_after=self._unready_after,
                lifecycle=lifecycle,
            )

    async def _start(self) -> None:
        await connect(
            self._engine, patience=self._wait_for_start, name=self._name, place=self._place
        )
        if self._replicas is not None:
            await self._replicas.start()
        self._is_open = True

    async def drain(self, until: float) -> Sequence[Loss]:
        """Wait until every connection is back, at most until the loop time `until`.

        Returns:
            One loss for each connection still in use, with its age and the task that took it.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(until):
                await self._end_watch()
                await self._gate.emptied()
                if self._replicas is not None:
                    await self._replicas.emptied()
        except TimeoutError:
            now = loop.time()
            return [
                Loss("part", self._name, now - out.at, f"a connection taken by {out.task_name!r}")
                for out in self._ledger.out.values()
            ]
        return []

    async def close(self) -> None:
        """Close idle connections now and those in use when they come back; twice is harmless."""
        self._is_open = False
        self._ledger.stop()
        self._limits.stop()
        await self._end_watch()
        if self._replicas is not None:
            await self._replicas.close()
        await self._close_sync()
        await self._engine.dispose()

    async def __aenter__(self) -> "Database":
        await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _ask_server(self) -> None:
        urgent.set(True)  # in the task of the probe alone
        async with self._engine.connect() as connection:
            # Without a transaction, which on SQLite would wait for the writer.
            alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await alone.exec_driver_sql("SELECT 1")

    async def _end_watch(self) -> None:
        if self._watch is not None:
            await self._watch.stop()

    def _unit_of_work(
        self,
        options: Mapping[str, Any],
        kind: type[DatabaseSession] = DatabaseSession,
        engine: AsyncEngine | None = None,
    ) -> UnitOfWork:
        return UnitOfWork(self._new_session(options, kind, engine), self._events)

    def _new_session(
        self,
        options: Mapping[str, Any],
        kind: type[DatabaseSession] = DatabaseSession,
        engine: AsyncEngine | None = None,
    ) -> DatabaseSession:
        self._check_open()
        if self._joined is None:
            bind = engine or self._engine
            return kind(
                bind,
                place=self._place,
                options=options,
                events=self._events,
                limits=self._limits,
            )
        # In a test's transaction, which has begun: nothing can be set for it any more.
        session = DatabaseSession(
            self._joined,
            place=self._place,
            options={},
            events=self._events,
            limits=self._limits,
        )
        session.sync_session.join_transaction_mode = "create_savepoint"
        return session

    def _new_ledger(self, idle_limit: float | None, *, trace: bool) -> Ledger:
        return Ledger(
            name=self._name,
            idle_limit=idle_limit,
            trace=trace,
            emit=self._emit,
            is_in_flight=self._is_in_flight,
        )

    def _emit(self, happened: Event) -> None:
        self._events.emit(happened)

    def _is_in_flight(self, request: InFlight) -> bool:
        return self._lifecycle is None or request in self._lifecycle.requests

    def _new_sync_units(self) -> SyncUnits:
        return SyncUnits(
            self._url,
            self._sync_options,
            size=self._pool_size,
            pre_ping=self._pre_ping,
            gate=self._gate,
            writers=self._writers,
            ledger=self._ledger,
        )

    def _check_open(self) -> None:
        if not self._is_open:
            raise errors.NotStarted(
                f"{self._name!r} ({self._place}) is not open; pass it to install(), "
                "or use it inside `async with database:`"
            )
