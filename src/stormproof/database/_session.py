"""The session: one unit of work, used by one task at a time, over when its block is over."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar, cast

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, AsyncSessionTransaction

from stormproof._core.deadline import remaining
from stormproof.errors import (
    DeadlineExceeded,
    SessionClosed,
    SessionShared,
)

from ._faults import commit_failed, is_connection_lost, unavailable
from ._waiting import PATIENCE, to_the_end

_COMMIT_LIMIT = 30.0
"""Seconds a COMMIT may take where no deadline is in force."""

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

    def begin(self) -> AsyncSessionTransaction:
        """Return a block that ends with this session's `commit`, or `rollback` when it raises."""
        self._check_open()
        return _Transaction(self)

    def begin_nested(self) -> AsyncSessionTransaction:
        """Return a block that is rolled back alone when it raises (SAVEPOINT)."""
        self._check_open()
        return _Transaction(self, nested=True)

    async def commit(self) -> None:
        """Flush, then COMMIT, and give the connection back; the next statement takes a new one.

        Nothing is committed once the deadline has passed; a COMMIT that was begun in time may
        end 5 s after it (without a deadline, after 30 s). Cancelled during the flush: nothing is
        stored. Cancelled during the COMMIT: it still runs to its end, for at most 5 s, the
        cancellation is raised after that, and the work may be stored.

        Raises:
            CommitFailed: The database refused the COMMIT; nothing is stored.
            DeadlineExceeded: The deadline had passed; nothing is stored.
            DatabaseUnavailable: The connection was lost, or the COMMIT was not answered in time;
                whether the work is stored is unknown.
        """
        await self.flush()
        left = self._left()
        with self._held():
            try:
                within = _COMMIT_LIMIT if left is None else left + PATIENCE
                await to_the_end(super().commit(), within=within)
            except Exception as error:
                # SQLAlchemy returns a connection whose commit raised to the pool as it is, if the
                # transaction is still open with it: the next user would commit this work.
                self._has_ended = True
                await to_the_end(super().invalidate())
                raise commit_failed(self._place, error) from error

    async def rollback(self) -> None:
        """Undo everything since the last commit; runs to its end also when cancelled."""
        with self._held():
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

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Keep the session for the running task; not entered twice by one task."""
        self._check_open()
        self._check_alone()
        self._user = asyncio.current_task()
        try:
            yield
        finally:
            self._user = self._limit = None
            if self._came_free is not None:
                self._came_free.set()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Hold the session for one statement of the running task, until the deadline at most.

        A task that holds it may go on to a second statement inside the first.
        """
        if self._user is not None and self._user is asyncio.current_task():
            yield
            return
        with self._held():
            limit = self._limit = asyncio.timeout(self._left())
            try:
                async with limit:
                    yield
            except TimeoutError as error:
                if not limit.expired():
                    raise
                self._check_open()  # it was not the deadline that cut it, but the block's end
                raise DeadlineExceeded(
                    f"the deadline passed during a statement on {self._place}"
                ) from error
            except (DBAPIError, ConnectionError) as error:
                if not is_connection_lost(error):
                    raise
                raise unavailable(self._place, error) from error

    def _left(self) -> float | None:
        """Return the seconds left of the deadline, None without one; raise when it has passed."""
        left = remaining()
        if left is not None and left <= 0:
            raise DeadlineExceeded(f"the deadline passed before a statement on {self._place}")
        return left

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


class _Transaction(AsyncSessionTransaction):
    """The block of `begin()` or `begin_nested()`, with the promises of the session."""

    __slots__ = ()

    session: DatabaseSession

    async def start(self, is_ctxmanager: bool = False) -> AsyncSessionTransaction:
        async with self.session._turn():
            # SQLAlchemy's own block would end with a COMMIT without our promises.
            return await super().start(is_ctxmanager and self.nested)

    async def commit(self) -> None:
        if not self.nested:
            return await self.session.commit()
        async with self.session._turn():
            return await super().commit()

    async def rollback(self) -> None:
        if not self.nested:
            return await self.session.rollback()
        with self.session._held():
            return await to_the_end(super().rollback())

    async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if self.nested:
            with self.session._held():
                return await super().__aexit__(kind, error, traceback)
        return await (self.session.commit() if kind is None else self.session.rollback())
