"""Retries: which failures are worth another attempt, and how long to pause before it."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from email.utils import parsedate_to_datetime

from stormproof._arguments import check_count, check_seconds

from ._faults import Fault, fault_of
from ._outcome import Outcome

IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
"""Methods whose second request changes nothing more (RFC 9110, 9.2.2)."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Which failures are tried again, how often, and after which pause.

    The pause is drawn evenly from 0 to min(`cap`, `base` x 2^(failures - 1)) seconds. A
    `Retry-After` of the upstream, in seconds or as a date, comes before it. Where the pause
    would end after the call's time there is none: the failure is the call's outcome at once.

    Args:
        attempts: Attempts of a call in all, the first included.
        base: Seconds, the longest pause after the first failure.
        cap: Seconds, the longest pause at all; `Retry-After` is not cut by it.
        statuses: Statuses that are tried again.
        broken: Whether a connection that broke off before the answer was whole is tried again,
            too; the upstream may have done the work. A refused connection always is.
        draw: Returns a number from 0 to 1.

    Raises:
        InvalidSetting: A number is out of its range.

    Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015
    ("full jitter"); `Retry-After` is RFC 9110, 10.2.3.

    versionadded: 0.1
    """

    attempts: int = 3
    _: KW_ONLY
    base: float = 0.05
    cap: float = 1.0
    statuses: frozenset[int] = frozenset((429, 502, 503, 504))
    broken: bool = False
    draw: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        check_count("Retry", attempts=self.attempts)
        check_seconds("Retry", or_zero=True, base=self.base, cap=self.cap)

    def wants(self, outcome: Outcome) -> bool:
        """Return whether `outcome` is a failure that is worth another attempt."""
        if outcome.error is None:
            return outcome.response.status_code in self.statuses
        fault = fault_of(outcome.error)
        return fault is Fault.UNREACHED or (self.broken and fault is Fault.BROKEN)

    def pause(self, failures: int, *, asked_for: float = 0.0) -> float:
        """Return the seconds to wait after so many failures; the upstream asked for some."""
        longest = min(self.cap, self.base * 2.0 ** min(failures - 1, 60))
        return asked_for + self.draw() * longest


def retry_after(headers: Mapping[str, str], *, now: Callable[[], float] = time.time) -> float:
    """Return the seconds that the header `Retry-After` asks for; 0 without one that is valid.

    Args:
        headers: The headers of an answer.
        now: Returns the seconds since the epoch, to which a date is compared.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now())
    except (ValueError, OverflowError):
        return 0.0
