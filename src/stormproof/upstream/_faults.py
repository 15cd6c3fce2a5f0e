"""Faults: what went wrong with a call, and the error that says so."""

from collections.abc import Mapping
from enum import Enum
from typing import Any

from stormproof.errors import StormproofError, UpstreamFailed, UpstreamTimeout


class Fault(Enum):
    """The ways in which an attempt fails without an answer."""

    LATE = "late"
    UNREACHED = "could not be reached"
    BROKEN = "broke off or answered wrongly"


def fault_of(error: BaseException) -> Fault | None:
    """Return what `error` means, or None when it is not about the other side.

    By the names of its classes: httpx2, httpx and a client of yours may share them.
    """
    if isinstance(error, StormproofError):
        return None  # of a limit or a circuit breaker: the upstream was not asked
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"ConnectError", "ConnectTimeout", "ConnectionRefusedError"}:
        return Fault.UNREACHED
    if "TimeoutException" in names or isinstance(error, TimeoutError):
        return Fault.LATE
    if "RequestError" in names or isinstance(error, OSError):
        return Fault.BROKEN
    return None


def failed(upstream: str, request: Any, cause: str) -> UpstreamFailed:
    """Return the error for a call that was answered wrongly or not at all."""
    return UpstreamFailed(f"upstream {upstream!r} {cause} on {address(request)}")


def broken(upstream: str, request: Any, fault: Fault, error: BaseException) -> UpstreamFailed:
    """Return the error for a call that ended in `error`."""
    return failed(upstream, request, f"{fault.value} ({type(error).__name__}: {error})")


def not_asked(upstream: str, request: Any) -> UpstreamTimeout:
    """Return the error for a call whose time was over before it began."""
    return UpstreamTimeout(
        f"upstream {upstream!r} was not asked for {address(request)}: "
        f"the request's deadline had passed"
    )


def late(upstream: str, request: Any, seconds: float, *, load: str) -> UpstreamTimeout:
    """Return the error for a call whose `seconds` were over; `load` says what else there was."""
    return UpstreamTimeout(
        f"upstream {upstream!r} did not answer {address(request)} within {seconds:.3f} s "
        f"({load}); make it faster or allow more"
    )


def stalled(upstream: str, request: Any, seconds: float) -> UpstreamTimeout:
    """Return the error for a body whose next piece did not come within `seconds`."""
    return UpstreamTimeout(
        f"upstream {upstream!r} began to answer {address(request)}, but its next piece did not "
        f"come within {seconds:.3f} s, or by the deadline; allow `idle` more, or read it again"
    )


def too_few(
    upstream: str, succeeded: int, needed: int, errors: Mapping[str, StormproofError]
) -> StormproofError:
    """Return the error for a fan-out in which fewer calls succeeded than were needed."""
    reasons = "; ".join(f"{name}: {error.message}" for name, error in errors.items())
    message = (
        f"{succeeded} of {succeeded + len(errors)} calls to upstream {upstream!r} succeeded, "
        f"{needed} were needed; {reasons}"
    )
    kinds = {type(error) for error in errors.values()}
    kind = kinds.pop() if len(kinds) == 1 else UpstreamFailed
    pauses = [error.retry_after for error in errors.values() if error.retry_after is not None]
    return kind(message, retry_after=max(pauses, default=None))


def address(request: Any) -> str:
    """Return method, host and path: a query may hold secrets."""
    return f"{request.method} {request.url.copy_with(query=None, userinfo=b'', fragment=None)}"
