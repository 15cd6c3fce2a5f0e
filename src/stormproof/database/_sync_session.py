"""The sync session: one unit of work for code in threads, which can be cut from another thread."""

import functools
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, SessionTransaction

from stormproof._core.deadline import remaining
from stormproof.errors import DeadlineExceeded, SessionClosed, SessionShared

from ._faults import commit_refused
from ._turn import told_apart
from ._waiting import PATIENCE, sever

_CUT_EVERY = 0.05
_SEVER_AFTER = 1.0
"""Seconds a server may take to end a statement it was asked to end."""

Method = TypeVar("Method", bound=Callable[..., Any])


def _one_at_a_time(method: Method) -> Method:
    """Make a method of Session take its turn: see `SyncSession._turn`."""

    @functools.wraps(method)
    def turn(session: "SyncSession", *args: Any, **kwargs: Any) -> Any:
        with session._turn():
            return method(session, *args, **kwargs)

    return cast(Method, turn)


class SyncSession(Session):
    """SQLAlchemy's Session for exactly one unit of work, used by one thread at a time.

    Its place in the pool was waited for before it was made; it takes the connection at the first
    statement. Objects stay readable after the commit. A statement that runs when the deadline
    passes, or when the unit of work ends, is cut in the database.

    Every method that talks to the database may raise:
        SessionClosed: The unit of work is over.
        SessionShared: Another thread is using the session at this moment.
        DeadlineExceeded: The deadline passed before or during the statement.
        DatabaseUnavailable: The server cannot be reached, or went away.
    Errors of the statement itself (`sqlalchemy.exc.IntegrityError`, ...) are left as they are.

    versionadded: 0.1
    """

    # As a pool's record has it, so that the ledger can note a session in its place.
    record_info = None

    def __init__(
        self,
        engine: Engine,
        *,
        place: str,
        options: Mapping[str, Any],
        watch_deadline: Callable[[], None],
    ) -> None:
        # prebuffer_rows: SQLite would step through them outside of the session's turn.
        super().__init__(
            engine,
            expire_on_commit=False,
            close_resets_only=False,
            execution_options={"prebuffer_rows": True, **options},
        )
        self._place = place
        self._watch_deadline = watch_deadline
        self._lock = threading.RLock()
        self._driver: Any = None
        self._has_ended = False
        self._is_late = False
        self._is_committing = False
        self._was_asked_to_cancel = False

    execute = _one_at_a_time(Session.execute)
    # mypy cannot compare its overload on Never with itself (python/mypy#20651).
    scalar = _one_at_a_time(Session.scalar)  # type: ignore[arg-type, assignment]
    scalars = _one_at_a_time(Session.scalars)
    get = _one_at_a_time(Session.get)
    get_one = _one_at_a_time(Session.get_one)
    flush = _one_at_a_time(Session.flush)
    refresh = _one_at_a_time(Session.refresh)
    merge = _one_at_a_time(Session.merge)
    delete = _one_at_a_time(Session.delete)
    connection = _one_at_a_time(Session.connection)
    bulk_save_objects = _one_at_a_time(Session.bulk_save_objects)
    bulk_insert_mappings = _one_at_a_time(Session.bulk_insert_mappings)
    bulk_update_mappings = _one_at_a_time(Session.bulk_update_mappings)

    def add(self, instance: object, *, _warn: bool = True) -> None:
        """Plan to store `instance`; raises SessionClosed instead of forgetting it after the end."""
        self._check_open()
        super().add(instance, _warn=_warn)

    def add_all(self, instances: Iterable[object]) -> None:
        """Plan to store `instances`; raises SessionClosed instead of forgetting them."""
        self._check_open()
        super().add_all(instances)

    def begin(self, nested: bool = False) -> SessionTransaction:
        """Return a block that ends with this session's `commit`, or `rollback` when it raises."""
        self._check_open()
        if nested:
            return super().begin(nested=True)
        return cast(SessionTransaction, _Block(self))

    def commit(self) -> None:
        """Flush, then COMMIT, and give the connection back; the next statement takes a new one.

        Nothing is committed once the deadline has passed.

        Raises:
            CommitFailed: The database refused the COMMIT; nothing is stored.
            DeadlineExceeded: The deadline had passed; nothing is stored.
            DatabaseUnavailable: The connection was lost before the COMMIT; nothing is stored.
            CommitUnknown: It was lost during it, or the COMMIT was not answered in time.
        """
        with self._turn():
            self.flush()
            self._check_in_time()
            self._is_committing = True
            try:
                self._refuse_failed()
                super().commit()
            except Exception as error:
                # As in the async session: the next user would commit this work.
                self._has_ended = True
                super().invalidate()
                raise commit_refused(self._place, error) from error
            finally:
                self._is_committing = False

    def rollback(self) -> None:
        """Undo everything since the last commit."""
        with self._turn(is_undoing=True):
            super().rollback()

    def close(self) -> None:
        """End the unit of work early, without a commit; the session cannot be used after it."""
        self.undo()

    def finish(self) -> None:
        """Commit and end the unit of work; in a thread."""
        self.commit()
        self._has_ended = True
        self._leave()

    def end_unused(self) -> bool:
        """End a unit of work in which nothing happened, without I/O; whether it was one."""
        if self.in_transaction() or self.new or self.dirty or self.deleted:
            return False
        self._has_ended = True
        super().close()
        return True

    def undo(self) -> None:
        """End the unit of work: cut what still runs, roll back; in a thread.

        Returns when the thread that uses the session has left its statement.
        """
        self._has_ended = True
        self._cut_until_free()
        try:
            self._leave()
        except Exception:
            # The rollback failed, so the connection is of no use.
            with suppress(Exception):
                super().invalidate()
        finally:
            self._lock.release()

    def _leave(self) -> None:
        # A request to cancel may arrive late: it cut a statement of the connection's next user.
        if self._was_asked_to_cancel:
            super().invalidate()
        else:
            super().close()

    def expire_now(self) -> None:
        """Cut what runs because the deadline has passed; in a thread."""
        self._is_late = True
        self._cut_until_free()
        self._lock.release()

    def _refuse_failed(self) -> None:
        """Raise where the COMMIT would not arrive, or be answered with a rollback and no error."""
        if self.in_transaction() and not isinstance(self._driver, sqlite3.Connection):
            from ._psycopg import refuse_ended, refuse_failed

            refuse_ended(self._driver)
            refuse_failed(self._driver)

    def _cut_until_free(self) -> None:
        """Interrupt what runs, again and again, until the lock is ours."""
        waited, pause = 0.0, _CUT_EVERY
        while not self._lock.acquire(timeout=pause if waited else 0):
            is_patient = self._is_committing and waited < PATIENCE
            if not is_patient:
                self._interrupt(is_last=waited >= _SEVER_AFTER)
            waited += pause
            pause = min(2 * pause, 1.0)

    def _interrupt(self, *, is_last: bool) -> None:
        driver = self._driver
        with suppress(Exception):  # it may have come to its end by itself meanwhile
            if isinstance(driver, sqlite3.Connection):
                driver.interrupt()
            elif driver is not None and is_last:
                sever(driver.fileno())
            elif driver is not None:
                self._was_asked_to_cancel = True
                driver.cancel_safe(timeout=_SEVER_AFTER)

    @contextmanager
    def _turn(self, *, is_undoing: bool = False) -> Iterator[None]:
        """Hold the session for one statement of the running thread."""
        self._check_open()
        if not is_undoing:
            self._check_in_time()
        # Late: the thread that cuts holds the lock for a moment.
        if not self._lock.acquire(timeout=1.0 if self._is_late else 0):
            raise SessionShared(
                f"a session of {self._place} is used by two threads at once; "
                "give each its own, or run the statements one after another"
            )
        try:
            yield
        except DBAPIError as error:
            if self._has_ended and not self._is_committing:
                self._check_open()
            if self._is_late:
                raise DeadlineExceeded(
                    f"the deadline passed during a statement on {self._place}"
                ) from error
            told = told_apart(self._place, error)
            if told is None:
                raise
            raise told from error
        finally:
            self._lock.release()

    def _check_open(self) -> None:
        if self._has_ended:
            raise SessionClosed(
                f"a session of {self._place} was used after its unit of work had ended; "
                "background work or a thread of your own needs a session of its own"
            )

    def _check_in_time(self) -> None:
        left = remaining()
        if left is None:
            return
        if left <= 0:
            raise DeadlineExceeded(f"the deadline passed before a statement on {self._place}")
        self._watch_deadline()


class _Block:
    """The block of `begin()`."""

    def __init__(self, session: SyncSession) -> None:
        self._session = session

    def __enter__(self) -> "_Block":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is None:
            self._session.commit()
        else:
            self._session.rollback()


@event.listens_for(SyncSession, "after_begin")
def _note_driver(session: SyncSession, _: SessionTransaction, connection: Connection) -> None:
    session._driver = connection.connection.driver_connection
