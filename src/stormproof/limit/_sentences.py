"""What a limiter says when it turns a caller away: what, where, the numbers, the way out."""

from stormproof.errors import DeadlineExceeded, LimitExceeded

from ._prediction import Reason

_CLOSED_RETRY_AFTER = 1.0

_WAYS_OUT: dict[Reason, str] = {
    "queue": "raise the capacity or max_wait, or shed earlier",
    "target": "it has been full for a while: raise the capacity, or shed earlier",
    "deadline": "it would be too late: raise the capacity or allow the request more time",
    "priority": "more important callers go first: raise the capacity or the priority",
}


def too_busy(limit: str, numbers: str, reason: Reason, wait: float) -> LimitExceeded:
    """Say on arrival that `wait` seconds would be too long."""
    return LimitExceeded(
        f"limit {limit!r} is full ({numbers}, a wait of {wait:.2f} s ahead); {_WAYS_OUT[reason]}",
        reason=reason,
        # Whoever is in the queue now has a slot by then.
        retry_after=wait,
    )


def waited(limit: str, numbers: str, seconds: float) -> LimitExceeded:
    """Say that no slot came free in `seconds`."""
    return LimitExceeded(
        f"limit {limit!r} is full ({numbers}, waited {seconds:.2f} s); {_WAYS_OUT['queue']}",
        reason="queue",
        retry_after=seconds,
    )


def closed(limit: str, numbers: str, seconds: float) -> LimitExceeded:
    """Say that the limiter was closed."""
    return LimitExceeded(
        f"limit {limit!r} is closed ({numbers}, waited {seconds:.2f} s); "
        "try again later, or elsewhere",
        reason="closed",
        retry_after=_CLOSED_RETRY_AFTER,
    )


def out_of_time(limit: str, numbers: str, seconds: float) -> DeadlineExceeded:
    """Say that the deadline passed in the queue."""
    return DeadlineExceeded(
        f"the deadline passed in the queue of limit {limit!r} ({numbers}, "
        f"waited {seconds:.2f} s); raise the capacity or allow the request more time",
        retry_after=seconds,
    )


def too_late(limit: str, late: float) -> DeadlineExceeded:
    """Say that the deadline had passed before."""
    return DeadlineExceeded(
        f"the deadline had passed {late:.2f} s before limit {limit!r} was asked; "
        "do less before it or allow the request more time",
        retry_after=1.0,
    )
