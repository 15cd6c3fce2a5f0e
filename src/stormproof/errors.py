"""The family of errors: one class per cause, each with a code, a status and a docs page."""

import json
import math
from collections.abc import Sequence
from typing import ClassVar

PROBLEM_JSON = "application/problem+json"


class StormproofError(Exception):
    """The base of every error this library raises on purpose.

    Attributes:
        code: The stable code, for example "SP201"; `docs/errors/<code>.md` explains it.
        status: The HTTP status a caller gets when it reaches the edge of the app.
        title: The cause in a few words, the same for each occurrence (RFC 9457).
        retry_after: Seconds after which trying again may help, or None.
        reason: Why a call was turned away, in one word, or None: "queue" (too many wait),
            "target" (for a while already), "deadline" (it would be or is too late), "priority"
            (others go first), "closed" (what it needs is going away), "rate" (its caller is over
            the quota) or "store" (the quota cannot be told).
    """

    code: ClassVar[str] = "SP000"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    reason: str | None = None

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.args[0]} [{self.code}]"

    @property
    def message(self) -> str:
        """What, where, numbers and the way out, without the code."""
        return str(self.args[0])


class InvalidSetting(StormproofError, ValueError):
    """An argument, environment variable or `[tool.stormproof]` value cannot be used."""

    code, title = "SP101", "Invalid setting"


class MissingExtra(StormproofError, ImportError):
    """A part was used whose optional dependency is not installed."""

    code, title = "SP102", "Optional dependency missing"


class AppNotFound(StormproofError, ImportError):
    """`module:app` could not be imported, or names no ASGI application."""

    code, title = "SP103", "Application not found"


class PortInUse(StormproofError, OSError):
    """The address to listen on is taken or not ours to take."""

    code, title = "SP104", "Address in use"


class AlreadyInstalled(StormproofError, RuntimeError):
    """`install()` was called twice on one app, or after it had started."""

    code, title = "SP105", "Already installed"


class NotStarted(StormproofError, RuntimeError):
    """A part was used before it was opened or after it was closed."""

    code, title = "SP106", "Part is not open"


class StartFailed(StormproofError, RuntimeError):
    """A part could not open, so the service did not start; what had opened was closed again."""

    code, title = "SP107", "Start failed"


class InvalidHeader(StormproofError, ValueError):
    """A request header that stormproof reads is malformed."""

    code, status, title = "SP108", 400, "Invalid request header"


class LimitExceeded(StormproofError):
    """A limiter shed the call: the wait for a slot would have been, or was, too long."""

    code, status, title = "SP201", 503, "Too busy"

    def __init__(
        self, message: str, *, reason: str = "queue", retry_after: float | None = None
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.reason = reason


class Draining(StormproofError):
    """The service is shutting down and past its lame duck."""

    code, status, title = "SP202", 503, "Shutting down"
    reason = "closed"


class RateLimited(StormproofError):
    """A caller made more calls than its rate limit allows.

    Attributes:
        fields: The response headers that tell the caller of its quota.
    """

    code, status, title = "SP203", 429, "Too many requests"
    reason = "rate"

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        fields: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.fields = fields


class RateStoreDown(StormproofError):
    """The store of a shared rate limit did not answer, and the limit was to refuse then."""

    code, status, title = "SP204", 503, "Rate limit unavailable"
    reason = "store"


class ThreadsFull(StormproofError):
    """A pool of threads refused the call: its queue was full, or the wait for a place was over."""

    code, status, title = "SP211", 503, "No thread free"
    reason = "queue"


class ThreadsClosed(StormproofError, RuntimeError):
    """A pool of threads was called after the service had drained it."""

    code, status, title = "SP212", 503, "Threads are closed"
    reason = "closed"


class DeadlineExceeded(StormproofError, TimeoutError):
    """The request's deadline passed before the answer was ready."""

    code, status, title = "SP301", 504, "Deadline exceeded"
    reason = "deadline"


class PoolTimeout(StormproofError, TimeoutError):
    """No database connection came free in time."""

    code, status, title = "SP401", 503, "No database connection free"
    reason = "queue"


class CommitFailed(StormproofError):
    """The database refused the COMMIT: nothing of this unit of work was stored."""

    code, title = "SP402", "Commit failed"


class SessionShared(StormproofError, RuntimeError):
    """One session was used by two tasks at once."""

    code, title = "SP403", "Session used concurrently"


class SessionClosed(StormproofError, RuntimeError):
    """A session was used after its unit of work had ended, for example in a streaming body."""

    code, title = "SP404", "Session used after its end"


class DatabaseUnavailable(StormproofError, ConnectionError):
    """The database could not be reached, or went away in the middle."""

    code, status, title = "SP405", 503, "Database unavailable"


class UncommittedWork(StormproofError, RuntimeError):
    """A session was to give its connection back in the middle of changes."""

    code, title = "SP406", "Uncommitted work"


class TransactionConflict(CommitFailed):
    """Another transaction was in the way: nothing is stored, and trying again may succeed."""

    code, status, title = "SP407", 503, "Transaction conflict"


class NoTransaction(StormproofError, RuntimeError):
    """An autocommit session was asked for what needs a connection that is held."""

    code, title = "SP408", "No transaction"


class ConstraintFailed(CommitFailed):
    """A constraint was broken, as the database saw at the COMMIT: nothing is stored."""

    code, status, title = "SP409", 409, "Constraint failed at the commit"


class NotPageable(StormproofError, ValueError):
    """A query cannot be read page by page: it has no key, or no page of it can be told."""

    code, title = "SP410", "Query cannot be paged"


class CommitUnknown(DatabaseUnavailable):
    """The connection was lost during the COMMIT: the work may be stored, or not."""

    code, status, title = "SP411", 503, "Commit unknown"


class UpstreamFailed(StormproofError, ConnectionError):
    """An upstream refused, broke off or answered wrongly."""

    code, status, title = "SP501", 502, "Upstream failed"


class UpstreamTimeout(StormproofError, TimeoutError):
    """An upstream did not answer within what remained of the deadline."""

    code, status, title = "SP502", 504, "Upstream timed out"


class CircuitOpen(StormproofError):
    """The circuit breaker of an upstream kept the call back: most calls before had failed."""

    code, status, title = "SP503", 503, "Circuit breaker open"


class TasksClosed(StormproofError, RuntimeError):
    """A task was spawned before the service had started or after its tasks were drained."""

    code, status, title = "SP601", 503, "Tasks are closed"
    reason = "closed"


class TasksFull(StormproofError):
    """A task was refused because as many as may run were running."""

    code, status, title = "SP602", 503, "Too many tasks"
    reason = "queue"


class CouldNotProve(StormproofError, RuntimeError):
    """`prove` could not run or measure the app: it did not start, or nothing it serves answers."""

    code, title = "SP701", "Could not prove"


class BusUnavailable(StormproofError, ConnectionError):
    """A hub's bus could not be reached: nothing was published, or no stream could begin."""

    code, status, title = "SP801", 503, "Event bus unavailable"


class HubFull(StormproofError):
    """A hub has as many subscribers as it may have."""

    code, status, title = "SP802", 503, "Too many subscribers"
    reason = "queue"


class PublishUnknown(StormproofError, ConnectionError):
    """The store of a bus went away while it took an event: it may be published or not."""

    code, title = "SP805", "Publishing has no known end"


class BusUnusable(StormproofError, RuntimeError):
    """The store of a bus answers, but cannot hold one: no tables, too old, or not allowed."""

    code, title = "SP806", "Event bus cannot be used"


class StreamIdle(StormproofError, TimeoutError):
    """The source of a stream yielded nothing for longer than its `idle_timeout`."""

    code, status, title = "SP811", 504, "Stream idle"


class ExportsFull(StormproofError):
    """An export was refused because as many are kept, or being written, as may."""

    code, status, title = "SP812", 503, "Too many exports"
    reason = "queue"


class ExportTooLarge(StormproofError):
    """An export was cut because the disk that exports may take was used up."""

    code, title = "SP813", "Export too large"


class ExportNotReady(StormproofError):
    """A part was asked for of an export that is still being written."""

    code, status, title = "SP814", 503, "Export not ready"


class PayloadMismatch(StormproofError, ValueError):
    """A job's stored arguments do not fit its function any more; it is held, not run."""

    code, title = "SP901", "Stored arguments do not fit"


class InvalidArguments(StormproofError, TypeError):
    """A job was enqueued with arguments that its function cannot be called with."""

    code, title = "SP902", "Invalid job arguments"


class LeaseLost(StormproofError, RuntimeError):
    """A job was taken by another worker while this one ran it; nothing of it was stored here."""

    code, title = "SP903", "Job taken by another worker"


class JobTimeout(StormproofError, TimeoutError):
    """A job was not done within the timeout of its task."""

    code, title = "SP904", "Job timed out"


class JobCrashed(StormproofError, RuntimeError):
    """A job was started as often as it may be, and its process died each time; it is held."""

    code, title = "SP905", "Job crashed its process"


class ForwardFailed(StormproofError, ConnectionError):
    """A broker did not take the message of a job; the job is tried again with the same id."""

    code, title = "SP910", "Message not forwarded"


def problem_headers(error: StormproofError) -> list[tuple[bytes, bytes]]:
    """Return the response headers for `error`: content type and, where known, Retry-After.

    Retry-After is rounded up to whole seconds, at least 1 (RFC 9110, 10.2.3). What a rate limit
    has to say goes with it.
    """
    headers = [(b"content-type", PROBLEM_JSON.encode()), (b"cache-control", b"no-store")]
    if isinstance(error, RateLimited):
        headers.extend(error.fields)
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
    return headers


def problem_body(error: StormproofError) -> bytes:
    """Return the `application/problem+json` body for `error` (RFC 9457)."""
    problem = {
        "type": f"urn:stormproof:error:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.message,
        "code": error.code,
    }
    if error.reason is not None:
        problem["reason"] = error.reason
    return json.dumps(problem).encode()
