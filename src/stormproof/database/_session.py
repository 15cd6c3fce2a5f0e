"""The session: one unit of work, used by one task at a time, over when its block is over."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, AsyncSessionTransaction

from stormproof._core.deadline import remaining
from stormproof.errors import (
    CommitFailed,
    DeadlineExceeded,
    SessionClosed,
    SessionShared,
)

from ._faults import first_line, is_connection_lost, unavailable
from ._waiting import to_the_end

Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])


def _one_at_a_time(method: Method) -> Method:
    """Make a method of AsyncSession take its turn: see `DatabaseSession._turn`."""

    @functools.wraps(method)
    async def turn(session: "DatabaseSession", *args: Any, **kwargs: Any) -> Any:
        async with session._turn():
            return await method(session, *args, **kwargs)

    return cast(Method, turn)


class DatabaseSession(AsyncSession):
    """SQLAlchemy's AsyncSession for exactly one unit of work.

    It takes its connection at the first statement. Objects stay readable after the commit. Each
    statement ends at the latest at the deadline in force; a statement that is cut, by the
    deadline or by a cancellation, costs its connection, and the unit of work cannot commit.

    Every awaited method may raise:
        SessionClosed: The block of `Database.session()` is over.
        SessionShared: Another task is using the session at this moment.
        PoolTimeout: No connection came free in time.
        DeadlineExceeded: The deadline passed before or during the statement.
        DatabaseUnavailable: The server cannot be reached, or went away.
    Errors of the statement itself (`sqlalchemy.exc.IntegrityError`, ...) are left as they are.
    """

    def __init__(self, engine: AsyncEngine, *, place: str, options: Mapping[str, Any]) -> None:
        super().__init__(
            engine, expire_on_commit=False, close_resets_only=False, execution_options=dict(options)
        )
        self._place = place
        self._user: asyncio.Task[Any] | None = None
        self._limit: asyncio.Timeout | None = None
        self._came_free: asyncio.Event | None = None
        self._has_ended = False

    execute = _one_at_a_time(AsyncSession.execute)
    # mypy cannot compare its overload on Never with itself (python/mypy#20651).
    scalar = _one_at_a_time(AsyncSession.scalar)  # type: ignore[arg-type, assignment]
    get = _one_at_a_time(AsyncSession.get)
    get_one = _one_at_a_time(AsyncSession.get_one)
    stream = _one_at_a_time(AsyncSession.stream)
    flush = _one_at_a_time(AsyncSession.flush)
    refresh = _one_at_a_time(AsyncSession.refresh)
    merge = _one_at_a_time(AsyncSession.merge)
    merge_all = _one_at_a_time(AsyncSession.merge_all)
    delete = _one_at_a_time(AsyncSession.delete)
    delete_all = _one_at_a_time(AsyncSession.delete_all)
    connection = _one_at_a_time(AsyncSession.connection)
    run_sync = _one_at_a_time(AsyncSession.run_sync)

    def add(self, instance: object, *, _warn: bool = True) -> None:
        """Plan to store `instance`; raises SessionClosed instead of forgetting it after the end."""
        self._check_open()
        super().add(instance, _warn=_warn)

    def add_all(self, instances: Iterable[object]) -> None:
        """Plan to store `instances`; raises SessionClosed instead of forgetting them."""
        self._check_open()
        super().add_all(instances)

    def begin_nested(self) -> AsyncSessionTransaction:
        """Return a block that is rolled back alone when it raises (SAVEPOINT)."""
        self._check_open()
        return super().begin_nested()

    async def commit(self) -> None:
        """Flush, then COMMIT, and give the connection back; the next statement takes a new one.

        Cancelled during the flush: nothing is stored. Cancelled during the COMMIT: it still runs
        to its end (at most 5 s), the cancellation is raised after that, and the work may be
        stored.

        Raises:
            CommitFailed: The database refused the COMMIT; nothing is stored.
            DeadlineExceeded: The deadline had passed, so nothing was committed.
        """
        await self.flush()
        async with self._turn():
            try:
                await to_the_end(super().commit())
            except Exception as error:
                # SQLAlchemy returns a connection whose commit raised to the pool as it is, if the
                # transaction is still open with it: the next user would commit this work.
                self._has_ended = True
                await to_the_end(super().invalidate())
                raise self._commit_failed(error) from error

    async def rollback(self) -> None:
        """Undo everything since the last commit; runs to its end also when cancelled."""
        self._check_open()
        self._check_alone()
        await to_the_end(super().rollback())

    async def end(self) -> None:
        """End the unit of work: cut what still runs, undo what was not committed.

        The connection is back in the pool when this returns, however it returns.
        """
        self._has_ended = True
        if self._user is not None and self._limit is not None and not self._limit.expired():
            self._limit.reschedule(0)
        await to_the_end(self._close_when_free())

    async def _close_when_free(self) -> None:
        while self._user is not None:
            self._came_free = asyncio.Event()
            await self._came_free.wait()
        try:
            await super().close()
        except Exception:
            # The rollback failed, so the connection is of no use: give the place back without it.
            await super().invalidate()

    async def close(self) -> None:
        """End the unit of work early, without a commit; the session cannot be used after it."""
        await self.end()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Hold the session for one operation of the running task, until the deadline at most.

        A task that holds it may go on to a second operation inside the first.
        """
        task = asyncio.current_task()
        if task is not None and self._user is task:
            yield
            return
        self._check_open()
        self._check_alone()
        left = remaining()
        if left is not None and left <= 0:
            raise DeadlineExceeded(f"the deadline passed before a statement on {self._place}")
        self._user = task
        try:
            async with asyncio.timeout(left) as self._limit:
                yield
        except TimeoutError as error:
            if self._limit is None or not self._limit.expired():
                raise
            self._check_open()
            raise DeadlineExceeded(
                f"the deadline passed during a statement on {self._place}"
            ) from error
        except (DBAPIError, ConnectionError) as error:
            if not is_connection_lost(error):
                raise
            raise unavailable(self._place, error) from error
        finally:
            self._user = self._limit = None
            if self._came_free is not None:
                self._came_free.set()

    def _check_open(self) -> None:
        if self._has_ended:
            raise SessionClosed(
                f"a session of {self._place} was used after its unit of work had ended; "
                "a stream, background work or a task needs a session of its own: "
                "`async with database.session() as session`"
            )

    def _check_alone(self) -> None:
        if self._user is not None and self._user is not asyncio.current_task():
            raise SessionShared(
                f"a session of {self._place} is used by two tasks at once "
                f"({self._user.get_name()!r} is in the middle of a statement); "
                "give each task its own session, or run the statements one after another"
            )

    def _commit_failed(self, error: Exception) -> Exception:
        if is_connection_lost(error):
            return unavailable(
                self._place, error, "during the COMMIT: whether the work is stored is unknown"
            )
        cause = first_line(error)
        if isinstance(error, PendingRollbackError):
            cause = "an earlier statement in it failed or was cut, and the block went on"
        return CommitFailed(
            f"the COMMIT on {self._place} failed, nothing of this unit of work is stored: {cause}"
        )
