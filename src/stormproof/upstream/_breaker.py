"""The circuit breaker: asks a failing upstream nothing for a while, then one call to try."""

import math
from collections import deque
from collections.abc import Callable
from enum import Enum

from stormproof._core.clock import MONOTONIC, Clock
from stormproof._core.events import CircuitChanged, Events
from stormproof.errors import CircuitOpen, InvalidSetting

_SLICES = 10


class Circuit(Enum):
    """The three states of a circuit breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Permit:
    """Leave to make one attempt; one of its ends must be told, and the first one counts."""

    __slots__ = ("_breaker", "_generation", "_is_told", "is_probe")

    def __init__(self, breaker: "CircuitBreaker", generation: int, *, is_probe: bool) -> None:
        self._breaker = breaker
        self._generation = generation
        self._is_told = False
        self.is_probe = is_probe

    def succeeded(self) -> None:
        """The upstream answered."""
        self._tell(self._breaker._succeeded)

    def failed(self) -> None:
        """The upstream failed."""
        self._tell(self._breaker._failed)

    def late(self, seconds: float) -> None:
        """The upstream had not answered after so many seconds, when the call's time was over."""
        is_long = seconds >= self._breaker.late_after
        self._tell(self._breaker._failed if is_long else self._breaker._abandoned)

    def abandoned(self) -> None:
        """Nothing was learnt: it was given up, or never sent."""
        self._tell(self._breaker._abandoned)

    def _tell(self, end: Callable[["Permit"], None]) -> None:
        # An attempt from before the last change of state says nothing about the time after it.
        if not self._is_told and self._generation == self._breaker._generation:
            end(self)
        self._is_told = True


class CircuitBreaker:
    """Stops attempts on an upstream while most of them fail.

    Closed: attempts are made and their outcomes counted. When at least `min_calls` ended in the
    last `window` seconds, and `failure_rate` of them or more failed, it opens. Open: nothing is
    asked, `permit` raises at once. After `open_for` seconds it is half-open: the next attempt
    is the probe, alone. When that succeeds the breaker closes and has forgotten what it
    counted; when it fails it is open again.

    An attempt fails when it is refused, breaks off, is answered with 500 or above, or is late
    after `late_after` seconds or more. One that had less time, or is given up by its caller,
    counts as nothing: callers in a hurry do not open the circuit for the others.

    Args:
        failure_rate: The share of failures at which it opens, above 0 and at most 1.
        min_calls: Ended attempts in the window without which it stays closed.
        window: Seconds that it looks back; counted in tenths.
        open_for: Seconds that it stays open.
        late_after: Seconds that an attempt must have had to count as late.
        name: What errors and events call it.
        clock: Where the time is read.
        events: Where `CircuitChanged` goes; also an attribute that may be set later.

    Raises:
        InvalidSetting: A number is out of its range.

    Source: Michael Nygard, "Release It!", 2007, chapter 5; the rate over a window with a
    minimum is that of resilience4j's `CircuitBreakerConfig`.

    versionadded: 0.1
    """

    def __init__(
        self,
        failure_rate: float = 0.5,
        *,
        min_calls: int = 20,
        window: float = 10.0,
        open_for: float = 5.0,
        late_after: float = 0.5,
        name: str = "upstream",
        clock: Clock = MONOTONIC,
        events: Events | None = None,
    ) -> None:
        if not 0 < failure_rate <= 1:
            raise InvalidSetting(f"CircuitBreaker(failure_rate={failure_rate!r}) must be in (0, 1]")
        if min_calls < 1:
            raise InvalidSetting(f"CircuitBreaker(min_calls={min_calls!r}) must be 1 or more")
        _check_seconds(window=window, open_for=open_for, late_after=late_after)
        self._failure_rate = failure_rate
        self._min_calls = min_calls
        self._slice = window / _SLICES
        self._open_for = open_for
        self.late_after = late_after
        self.events = events
        self._name = name
        self._clock = clock
        self._opened_at: float | None = None
        self._has_probe = False
        self._generation = 0
        self._refused = 0
        self._reason = ""
        self._forget()

    @property
    def circuit(self) -> Circuit:
        """The state it is in now."""
        if self._opened_at is None:
            return Circuit.CLOSED
        is_over = self._clock.now() >= self._opened_at + self._open_for
        return Circuit.HALF_OPEN if is_over else Circuit.OPEN

    @property
    def refused(self) -> int:
        """How many attempts it has not let through."""
        return self._refused

    @property
    def would_permit(self) -> bool:
        """Whether `permit` would let an attempt through now."""
        circuit = self.circuit
        return circuit is Circuit.CLOSED or (circuit is Circuit.HALF_OPEN and not self._has_probe)

    def permit(self) -> Permit:
        """Return leave for one attempt, without waiting.

        Raises:
            CircuitOpen: The breaker is open, or half-open with its probe under way (503).
        """
        if not self.would_permit:
            self._refused += 1
            raise self._open()
        is_probe = self._opened_at is not None
        self._has_probe = is_probe
        return Permit(self, self._generation, is_probe=is_probe)

    def _succeeded(self, permit: Permit) -> None:
        if permit.is_probe:
            self._change(opened_at=None, reason="its probe was answered")
        else:
            self._now()[1] += 1
            self._ended += 1

    def _failed(self, permit: Permit) -> None:
        now = self._clock.now()
        if permit.is_probe:
            self._change(opened_at=now, reason="its probe failed")
            return
        recent = self._now()
        recent[1] += 1
        recent[2] += 1
        self._ended += 1
        self._failures += 1
        if self._ended < self._min_calls or self._failures < self._failure_rate * self._ended:
            return
        reason = f"{self._failures} of {self._ended} attempts failed"
        self._change(opened_at=now, reason=reason)

    def _abandoned(self, permit: Permit) -> None:
        if permit.is_probe:
            self._has_probe = False

    def _change(self, *, opened_at: float | None, reason: str) -> None:
        self._opened_at = opened_at
        self._reason = reason
        self._has_probe = False
        self._generation += 1
        self._forget()
        if self.events is not None:
            self.events.emit(CircuitChanged(self._name, self.circuit.value, reason))

    def _forget(self) -> None:
        # [number of the slice, ended, failed], oldest first, and their sums.
        self._recent: deque[list[int]] = deque()
        self._ended = self._failures = 0

    def _now(self) -> list[int]:
        """Return the slice of this moment; what is older than the window is forgotten."""
        number = int(self._clock.now() / self._slice)
        recent = self._recent
        while recent and recent[0][0] <= number - _SLICES:
            _, ended, failures = recent.popleft()
            self._ended -= ended
            self._failures -= failures
        if not recent or recent[-1][0] != number:
            recent.append([number, 0, 0])
        return recent[-1]

    def _open(self) -> CircuitOpen:
        assert self._opened_at is not None  # closed lets everybody through
        left = self._opened_at + self._open_for - self._clock.now()
        state = (
            f"is open for another {left:.2f} s"
            if left > 0
            else "is half-open and its probe is under way"
        )
        return CircuitOpen(
            f"the circuit breaker of upstream {self._name!r} {state} ({self._reason}); "
            f"look at the upstream, and answer without it meanwhile",
            retry_after=max(0.0, left),
        )


def _check_seconds(**arguments: float) -> None:
    for name, seconds in arguments.items():
        if not 0 < seconds < math.inf:
            raise InvalidSetting(
                f"CircuitBreaker({name}={seconds!r}) must be finite seconds above 0"
            )
