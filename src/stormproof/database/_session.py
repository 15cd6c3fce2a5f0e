"""The session: one unit of work, used by one task at a time, over when its block is over."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    AsyncSessionTransaction,
)
from sqlalchemy.util import greenlet_spawn

from stormproof._core.deadline import current_deadline, remaining
from stormproof._core.events import Events
from stormproof.errors import DeadlineExceeded, SessionClosed, SessionShared

from ._callbacks import Callback, run_callbacks
from ._faults import commit_refused, is_connection_lost
from ._nested import Block
from ._turn import Turn
from ._uncommitted import refuse_uncommitted
from ._unit_session import UnitSession
from ._waiting import PATIENCE, Limits, to_the_end

_COMMIT_LIMIT = 30.0
"""Seconds a COMMIT may take where no deadline is in force."""

Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])


def _one_at_a_time(method: Method) -> Method:
    """Make a method of AsyncSession take its turn."""

    @functools.wraps(method)
    async def in_turn(session: "DatabaseSession", *args: Any, **kwargs: Any) -> Any:
        turn = Turn(session)
        with turn:
            if not session.commits_each_statement or turn.is_nested:
                return await method(session, *args, **kwargs)
            try:
                result = await method(session, *args, **kwargs)
            except BaseException:
                await to_the_end(AsyncSession.rollback(session))
                raise
            await session._commit_within(_COMMIT_LIMIT, session._commit_and_call_back())
            return result

    return cast(Method, in_turn)


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

    commits_each_statement = False
    sync_session_class = UnitSession
    sync_session: UnitSession
    commits = 0
    _user: asyncio.Task[Any] | None = None
    _turn: Turn | None = None
    _came_free: asyncio.Event | None = None
    _is_calling_back = False
    _has_ended = False
    _is_closed = False

    def __init__(
        self,
        engine: AsyncEngine | AsyncConnection,
        *,
        place: str,
        options: Mapping[str, Any],
        events: Events,
        limits: Limits,
    ) -> None:
        super().__init__(
            engine, expire_on_commit=False, close_resets_only=False, execution_options=dict(options)
        )
        self.place = place
        self._events = events
        self._limits = limits
        self._options = options
        self._callbacks: list[Callback] = []

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
        return Block(self)

    def begin_nested(self) -> AsyncSessionTransaction:
        """Return a block that is rolled back alone when it raises (SAVEPOINT)."""
        self._check_open()
        return Block(self, nested=True)

    async def commit(self) -> None:
        """Flush, then COMMIT, and give the connection back; the next statement takes a new one.

        Nothing is committed once the deadline has passed; a COMMIT that was begun in time may
        end 5 s after it (without a deadline, after 30 s). Cancelled during the flush: nothing is
        stored. Cancelled during the COMMIT: it still runs to its end, for at most 5 s, the
        cancellation is raised after that, and the work may be stored. When it has succeeded, the
        callbacks of `on_commit` run.

        Raises:
            CommitFailed: The database refused the COMMIT; nothing is stored.
            ConstraintFailed: It refused it because a constraint was broken; nothing is stored.
            TransactionConflict: It refused it because of another transaction; nothing is stored.
            DeadlineExceeded: The deadline had passed; nothing is stored.
            DatabaseUnavailable: The connection was lost before the COMMIT; nothing is stored.
            CommitUnknown: It was lost during it, or the COMMIT was not answered in time.
        """
        sync = self.sync_session
        if sync.new or sync.dirty or sync.deleted:
            await self.flush()
        left = self._left()
        self._hold(asyncio.current_task())
        try:
            if self._callbacks or sync.in_transaction():
                limit = _COMMIT_LIMIT if left is None else left + PATIENCE
                await self._commit_within(limit, self._commit_and_call_back())
        finally:
            self._give_up()

    async def finish(self) -> None:
        """Commit as the last thing of the unit of work; `end` follows in any case."""
        connection = None if self._callbacks else self.sync_session.plain_connection()
        if connection is None:
            return await self.commit()
        left = self._left()
        self._hold(asyncio.current_task())
        try:
            limit = _COMMIT_LIMIT if left is None else left + PATIENCE
            await self._commit_within(limit, self._commit_and_close(connection))
        finally:
            self._give_up()

    async def _commit_within(self, seconds: float, work: Coroutine[Any, Any, None]) -> None:
        before = self.commits
        try:
            await to_the_end(work, within=seconds, limits=self._limits)
        except Exception as error:
            if self.commits > before:
                return  # a callback took too long, which was told; the COMMIT stands
            self._has_ended = True
            if isinstance(error, DBAPIError) and not is_connection_lost(error):
                await to_the_end(self._close_or_invalidate())
            else:
                # SQLAlchemy returns a connection whose commit raised to the pool as it is, if the
                # transaction is still open with it: the next user would commit this work.
                await to_the_end(super().invalidate())
            only_reads = bool(self._options.get("postgresql_readonly"))
            raise commit_refused(self.place, error, only_reads=only_reads) from error

    async def _commit_and_call_back(self) -> None:
        if self.sync_session.in_transaction():
            await super().commit()
        self.commits += 1
        if not self._callbacks:
            return
        callbacks, self._callbacks = self._callbacks, []
        self._is_calling_back = True
        try:
            await run_callbacks(callbacks, self._events)
        finally:
            self._is_calling_back = False

    def _commit_and_close(self, connection: Connection) -> Coroutine[Any, Any, None]:
        """In one go, where the COMMIT of `connection` is all there is to do."""

        def work() -> None:
            transaction = connection.get_transaction()
            assert transaction is not None
            transaction.commit()
            self.commits += 1
            self.sync_session.close()
            self._has_ended = self._is_closed = True

        return greenlet_spawn(work)

    def on_commit(self, callback: Callback) -> None:
        """Call `callback()` once the work so far is committed; never after a rollback.

        Callbacks run in their order, within `commit()` and so before the response: at the end
        of the unit of work, or at a commit in its middle. One that raises is logged and told as
        the event `CommitCallbackFailed`; the others run, and the work stays committed. What a
        callback awaits holds up the response, until 5 s after the deadline at most (without a
        deadline 30 s); when the caller is cancelled they still have 5 s. In a savepoint that is
        undone they are forgotten with it. A callback cannot use this session.

        Args:
            callback: A plain or async function without arguments, for example
                `functools.partial(tasks.spawn, send_mail, order.id)`.
        """
        self._check_open()
        self._callbacks.append(callback)

    async def release(self) -> None:
        """Give the connection back before a slow await; the next statement takes one again.

        It ends the transaction: what is read afterwards may have changed meanwhile, and locks
        are gone. Loaded objects stay usable. It never commits and never undoes anything: with
        changes that are not committed it refuses, and the unit of work goes on as it was. To
        know it, it asks the database (one more round trip on PostgreSQL, none on SQLite or in a
        `read_session`); on PostgreSQL a row lock counts as a change. Without a connection it
        does nothing.

        Raises:
            UncommittedWork: There are changes that are not committed: `await session.commit()`
                before, or release before the first change.
        """
        with Turn(self):
            await refuse_uncommitted(self)
            if self.sync_session.in_transaction():
                # COMMIT, which stores nothing here: a ROLLBACK would expire what was loaded.
                await to_the_end(super().commit())

    async def rollback(self) -> None:
        """Undo everything since the last commit; runs to its end also when cancelled."""
        self._callbacks.clear()
        with self._held():
            await to_the_end(super().rollback())

    async def end(self) -> None:
        """End the unit of work: cut what still runs, undo what was not committed.

        The connection is back in the pool when this returns, however it returns.
        """
        self._has_ended = True
        if self._is_closed:
            return
        self._callbacks.clear()
        if self._user is None and not self.sync_session.in_transaction():
            self.sync_session.close()  # holds no connection, so this waits for nothing
            return
        if self._turn is not None:
            self._turn.cut()
        await to_the_end(self._close_when_free())

    async def _close_when_free(self) -> None:
        while self._user is not None:
            self._came_free = asyncio.Event()
            await self._came_free.wait()
        await self._close_or_invalidate()

    async def _close_or_invalidate(self) -> None:
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
        """Keep the session for the running task, without a limit; not entered twice by one task."""
        self._hold(asyncio.current_task())
        try:
            yield
        finally:
            self._give_up()

    def _hold(self, task: asyncio.Task[Any] | None) -> None:
        if self._has_ended or self._is_calling_back:
            self._check_open()
        if self._user is not None and self._user is not task:
            raise self._shared(self._user)
        self._user = task

    def _give_up(self) -> None:
        self._user = None
        if self._came_free is not None:
            self._came_free.set()

    def _left(self) -> float | None:
        """Return the seconds left of the deadline, None without one; raise when it has passed."""
        if current_deadline() is None:
            return None
        left = remaining()
        if left is not None and left <= 0:
            raise DeadlineExceeded(f"the deadline passed before a statement on {self.place}")
        return left

    def _check_open(self) -> None:
        if self._is_calling_back:
            raise SessionClosed(
                f"a callback of on_commit() used its session of {self.place}, whose work is "
                "committed already; open a session of its own in it"
            )
        if self._has_ended:
            raise SessionClosed(
                f"a session of {self.place} was used after its unit of work had ended; "
                "a stream, background work or a task needs a session of its own: "
                "`async with database.session() as session`"
            )

    def _shared(self, user: asyncio.Task[Any]) -> SessionShared:
        return SessionShared(
            f"a session of {self.place} is used by two tasks at once "
            f"({user.get_name()!r} is in the middle of a statement); "
            "give each task its own session, or run the statements one after another"
        )
