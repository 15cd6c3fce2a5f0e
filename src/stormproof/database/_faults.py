"""Faults of the connection: telling a lost server from a refused statement."""

from sqlalchemy.exc import DBAPIError, PendingRollbackError

from stormproof.errors import CommitFailed, DatabaseUnavailable, StormproofError

# SQLSTATE: connection exceptions, the server stops or starts, too many connections.
_LOST_CLASS = "08"
_LOST_STATES = frozenset({"57P01", "57P02", "57P03", "53300"})


def is_connection_lost(error: BaseException) -> bool:
    """Whether `error` says that the database went away, not that it refused a statement."""
    if isinstance(error, StormproofError):
        return False  # has its sentence already
    if isinstance(error, ConnectionError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = str(getattr(error.orig, "sqlstate", None) or "")
    return error.connection_invalidated or state.startswith(_LOST_CLASS) or state in _LOST_STATES


def unavailable(
    place: str, error: BaseException, when: str = "during a statement: the work is rolled back"
) -> DatabaseUnavailable:
    """Return the error for a connection to `place` that was lost."""
    return DatabaseUnavailable(
        f"the connection to the database at {place} was lost {when} ({first_line(error)})",
        retry_after=1,
    )


def commit_failed(place: str, error: Exception) -> Exception:
    """Return the error for a COMMIT on `place` that raised `error`."""
    if is_connection_lost(error) or isinstance(error, TimeoutError):
        return unavailable(place, error, "during the COMMIT: whether the work is stored is unknown")
    cause = first_line(error)
    if isinstance(error, PendingRollbackError):
        cause = "an earlier statement in it failed or was cut, and the block went on"
    return CommitFailed(
        f"the COMMIT on {place} failed, nothing of this unit of work is stored: {cause}"
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
