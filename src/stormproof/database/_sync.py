"""Sync units of work: places waited for on the loop, connections used in threads."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

from anyio import CapacityLimiter, to_thread
from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import QueuePool

from stormproof._core.deadline import remaining
from stormproof.errors import InvalidSetting

from ._engine import PSYCOPG_TIMEOUTS, is_sqlite, name_unreachable, read_only_options
from ._faults import first_line
from ._gate import Gate
from ._ledger import Ledger
from ._pool import is_urgent
from ._settings import check_driver, place
from ._sync_session import SyncSession
from ._turn import told_apart
from ._waiting import to_the_end


class SyncUnits:
    """The sync side of a database: an engine of its own, behind the same gates.

    Args:
        url: Where the database is, with the async driver.
        options: Further arguments of SQLAlchemy's `create_engine`, without `connect_args`.
        size: Connections kept open.
        pre_ping: Whether a connection is tested when it is taken.
        gate: The gate of all connections, sync and async.
        writers: What SQLite's writers wait at.
        ledger: Where each place in use is noted.

    Raises:
        MissingExtra: The sync driver is not installed.
    """

    def __init__(
        self,
        url: URL,
        options: Mapping[str, Any],
        *,
        size: int,
        pre_ping: bool,
        gate: Gate,
        writers: Gate,
        ledger: Ledger,
    ) -> None:
        self._place = place(url)
        self._gates = [gate] if not is_sqlite(url) else [gate, writers]
        self._ledger = ledger
        self._read_only = read_only_options(url)
        pool = {
            "pool_size": size,
            "max_overflow": gate.capacity - size,
            "pool_pre_ping": pre_ping,
        }
        self._engine = _new_engine(url, options, pool, gate, writers)
        # Not anyio's 40 threads, which are the endpoints': a COMMIT that waits behind them would
        # keep a place from the next request. Two a place: one may have to cut the other's work.
        self._threads = CapacityLimiter(2 * gate.capacity)
        self._jobs: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Close the idle connections, and wait for threads that still clean up, at most 5 s."""
        if self._jobs:
            await asyncio.wait(tuple(self._jobs), timeout=5.0)
        self._engine.dispose()

    @asynccontextmanager
    async def unit(self, *, is_reader: bool) -> AsyncIterator[SyncSession]:
        """Wait for a place, give out a session, commit; see `Database.sync_session`."""
        gates = self._gates[:1] if is_reader else self._gates
        await self._enter(gates)
        loop = asyncio.get_running_loop()
        timer = _DeadlineTimer(loop, lambda: self._start(session.expire_now))
        session = SyncSession(
            self._engine,
            place=self._place,
            options=self._read_only if is_reader else {},
            watch_deadline=timer.set,
        )
        # Not idle and not to be taken back: the ledger knows connections, and this is a place.
        self._ledger.take(cast(Any, session))
        self._ledger.out[session].idle_at = None
        is_over = False
        try:
            yield session
            is_over = session.end_unused() or await self._finished(session)
        except DBAPIError as error:
            told = told_apart(self._place, error)
            if told is None:
                raise
            raise told from error
        finally:
            timer.cancel()
            give_back = partial(self._give_back, session, gates)
            if is_over:
                give_back()
            else:
                # The place comes back when the connection does: the thread of a cancelled caller
                # may be in the middle of a statement.
                undoing = self._start(session.undo)
                undoing.add_done_callback(lambda _: give_back())
                await to_the_end(_joined(undoing))

    async def _enter(self, gates: list[Gate]) -> None:
        first, *others = gates
        may_use_reserve = first.reserve == 0 or is_urgent()
        if not first.try_acquire(is_urgent=may_use_reserve):
            self._ledger.sweep()
            await first.acquire(is_urgent=may_use_reserve)
        entered = [first]
        try:
            for gate in others:
                await gate.acquire()
                entered.append(gate)
        except BaseException:
            for gate in reversed(entered):
                gate.release()
            raise

    async def _finished(self, session: SyncSession) -> bool:
        await to_the_end(_joined(self._start(session.finish)))
        return True

    def _start(self, work: Callable[[], None]) -> asyncio.Task[None]:
        async def run() -> None:
            await to_thread.run_sync(work, limiter=self._threads)

        job = asyncio.create_task(run(), name=f"sync session of {self._place}")
        self._jobs.add(job)
        job.add_done_callback(self._over)
        return job

    def _over(self, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        if not job.cancelled():
            job.exception()  # looked at: its caller may have been cancelled

    def _give_back(self, session: SyncSession, gates: list[Gate]) -> None:
        self._ledger.give_back(cast(Any, session))
        for gate in reversed(gates):
            gate.release()


class _DeadlineTimer:
    """Calls `on_deadline` once when the deadline passes; set from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_deadline: Callable[[], Any]) -> None:
        self._loop = loop
        self._on_deadline = on_deadline
        self._timer: asyncio.TimerHandle | None = None
        self._at = float("inf")
        self._is_over = False

    def set(self) -> None:
        """Have it called at the deadline in force here, if that is nearer than what is set."""
        left = remaining()
        at = float("inf") if left is None else self._loop.time() + left
        # Some slack: the two clocks are read one after the other.
        if at < self._at - 0.005:
            self._at = at
            self._loop.call_soon_threadsafe(self._arm)

    def cancel(self) -> None:
        """Call it no more."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._is_over:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._at, self._on_deadline)


async def _joined(job: asyncio.Task[None]) -> None:
    # shield: who stops waiting must not make the thread's work look ended.
    await asyncio.shield(job)


def _new_engine(
    url: URL, options: Mapping[str, Any], pool: Mapping[str, Any], gate: Gate, writers: Gate
) -> Engine:
    ours: dict[str, Any] = {**pool, "poolclass": QueuePool}
    creator = None
    if is_sqlite(url):
        from ._sync_sqlite import ARGUMENTS

        ours["connect_args"] = ARGUMENTS
    else:
        check_driver("psycopg")
        from ._psycopg_timeout import ThreadConnection

        creator = ThreadConnection.connect
        ours["connect_args"] = PSYCOPG_TIMEOUTS
    try:
        engine = create_engine(_sync_url(url), **ours, **options)
    except (ArgumentError, TypeError) as error:
        raise InvalidSetting(f"engine_options: {first_line(error)}") from error
    name_unreachable(engine, place(url), creator)
    if is_sqlite(url):
        from ._sync_sqlite import isolate

        isolate(engine, writers, place(url), busy_ms=round(gate.max_wait * 1000))
    return engine


def _sync_url(url: URL) -> URL:
    if is_sqlite(url):
        return url.set(drivername="sqlite+pysqlite")
    mode = url.query.get("ssl")
    if mode is not None:  # asyncpg's name for libpq's sslmode
        url = url.difference_update_query(["ssl"]).update_query_dict({"sslmode": mode})
    return url.set(drivername="postgresql+psycopg")
