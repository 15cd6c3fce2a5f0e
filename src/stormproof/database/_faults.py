"""Faults of the connection: telling a lost server from a refused statement."""

import sqlite3

from sqlalchemy.exc import DBAPIError, InterfaceError, PendingRollbackError

from stormproof._core.deadline import remaining
from stormproof.errors import (
    CommitFailed,
    CommitUnknown,
    ConstraintFailed,
    DatabaseUnavailable,
    DeadlineExceeded,
    StormproofError,
    TransactionConflict,
)

# SQLSTATE: connection exceptions, the server stops or starts, too many connections.
_LOST_CLASS = "08"
_LOST_STATES = frozenset({"57P01", "57P02", "57P03", "53300"})
# Serialization failure, deadlock: the same transaction, begun again, may succeed.
_CONFLICTS = frozenset({"40001", "40P01"})
_CONSTRAINT_CLASS = "23"
_CANCELED = "57014"
# Ours fires at most 0.1 s before the deadline (`statement_timeout_ms`).
_NEAR_THE_DEADLINE = 0.15


class NotSent(ConnectionError):
    """The connection had ended before the COMMIT was sent."""


def is_connection_lost(error: BaseException) -> bool:
    """Whether `error` says that the database went away, not that it refused a statement."""
    if isinstance(error, StormproofError):
        return False  # has its sentence already
    if isinstance(error, ConnectionError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = _state(error)
    return error.connection_invalidated or state.startswith(_LOST_CLASS) or state in _LOST_STATES


def is_conflict(error: BaseException) -> bool:
    """Whether another transaction was in the way, and this one may succeed when it is repeated."""
    if not isinstance(error, DBAPIError):
        return False
    return _state(error) in _CONFLICTS or is_busy(error.orig)


def is_busy(error: BaseException | None) -> bool:
    """Whether SQLite says that another connection holds its lock."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def is_constraint(error: BaseException) -> bool:
    """Whether the database refused what breaks a constraint; done again, it breaks it again."""
    if not isinstance(error, DBAPIError):
        return False
    code: int = getattr(error.orig, "sqlite_errorcode", 0)
    is_sqlites = code & 0xFF == sqlite3.SQLITE_CONSTRAINT
    return _state(error).startswith(_CONSTRAINT_CLASS) or is_sqlites


def is_cut_by_deadline(error: BaseException) -> bool:
    """Whether the server cut a statement because our deadline is about to pass."""
    if not isinstance(error, DBAPIError) or _state(error) != _CANCELED:
        return False
    left = remaining()
    return left is not None and left <= _NEAR_THE_DEADLINE


def cut_by_deadline(place: str) -> DeadlineExceeded:
    """Return the error for a statement that the server cut in time."""
    return DeadlineExceeded(f"the deadline passed during a statement on {place}")


def conflict(place: str, error: BaseException) -> TransactionConflict:
    """Return the error for a transaction that another one was in the way of."""
    return TransactionConflict(
        f"another transaction on {place} was in the way, nothing of this one is stored "
        f"({first_line(error)}); run it again: @database.transaction(retries=3)",
        retry_after=1,
    )


def commit_refused(place: str, error: Exception, *, only_reads: bool = False) -> Exception:
    """Return the error for a COMMIT that raised `error`: what is known about the work.

    An error that the server sends as its answer comes from before the commit. A connection that
    ends in place of the answer may have ended after it, also when the server said goodbye.
    """
    # InterfaceError: asyncpg refuses to use a connection that it has seen end.
    if isinstance(error, NotSent | InterfaceError) and is_connection_lost(error):
        return unavailable(place, error, "before the COMMIT: nothing is stored")
    if only_reads and is_connection_lost(error):
        return unavailable(place, error, "at the end of a unit of work that only read")
    if is_connection_lost(error) or isinstance(error, TimeoutError):
        return CommitUnknown(
            f"the connection to the database at {place} was lost during the COMMIT: whether the "
            f"work is stored is unknown ({first_line(error)}); look for it before doing it again"
        )
    if is_conflict(error):
        return conflict(place, error)
    if is_cut_by_deadline(error):
        return DeadlineExceeded(f"the deadline passed in the COMMIT on {place}; nothing is stored")
    cause = first_line(error)
    if isinstance(error, PendingRollbackError):
        cause = "an earlier statement in it failed or was cut, and the block went on"
    kind = ConstraintFailed if is_constraint(error) else CommitFailed
    return kind(f"the COMMIT on {place} failed, nothing of this unit of work is stored: {cause}")


def unavailable(
    place: str, error: BaseException, when: str = "during a statement: the work is rolled back"
) -> DatabaseUnavailable:
    """Return the error for a connection to `place` that was lost."""
    return DatabaseUnavailable(
        f"the connection to the database at {place} was lost {when} ({first_line(error)})",
        retry_after=1,
    )


def unreachable(place: str, error: BaseException) -> DatabaseUnavailable:
    """Return the error for a database at `place` that could not be connected to."""
    return DatabaseUnavailable(
        f"the database at {place} cannot be reached ({first_line(error)}); "
        "check that it runs, and the user, password and name in the URL",
        retry_after=1,
    )


def first_line(error: BaseException) -> str:
    """Return the driver's sentence: without SQL text, parameters and links."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(cause).strip().splitlines()
    name = type(cause).__name__
    return lines[0].removeprefix(f"<class '{type(cause).__module__}.{name}'>: ") if lines else name


def _state(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")
