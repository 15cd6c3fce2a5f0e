"""The circuit breaker: asks a failing upstream nothing for a while, then little, then all."""

from collections.abc import Callable
from enum import Enum

from stormproof._arguments import check_count, check_seconds
from stormproof._core.clock import MONOTONIC, Clock
from stormproof._core.events import CircuitChanged, Events
from stormproof._core.primitives import register
from stormproof.errors import CircuitOpen, InvalidSetting

from ._recent import RecentCounts
from ._statistics import BreakerStatistics

_FIRST_SHARE = 0.1


class Circuit(Enum):
    """The states of a circuit breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    RAMPING = "ramping"


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
            self._breaker._in_flight -= 1
            end(self)
        self._is_told = True


class CircuitBreaker:
    """Stops attempts on an upstream while most of them fail.

    Closed: attempts are made and their outcomes counted. When at least `min_calls` ended in the
    last `window` seconds, and `failure_rate` of them or more failed, it opens. Open: nothing is
    asked, `permit` raises at once. After `open_for` seconds it is half-open: the next attempt
    is the probe, alone. When that fails the breaker is open again; when it succeeds the breaker
    has forgotten what it counted, and is ramping: for `ramp` seconds it lets a share of the
    attempts through that grows from a tenth to all, so that an upstream with cold caches is not
    knocked over by everything at once. An attempt always passes while no other is under way.

    An attempt fails when it is refused, breaks off, is answered with 500 or above, or is late
    after `late_after` seconds or more. One that had less time, or is given up by its caller,
    counts as nothing: callers in a hurry do not open the circuit for the others.

    Args:
        failure_rate: The share of failures at which it opens, above 0 and at most 1.
        min_calls: Ended attempts in the window without which it stays closed.
        window: Seconds that it looks back; counted in tenths.
        open_for: Seconds that it stays open.
        ramp: Seconds from the first answer until all attempts are let through again; 0: at once.
        late_after: Seconds that an attempt must have had to count as late.
        name: What errors and events call it.
        clock: Where the time is read.
        events: Where `CircuitChanged` goes; also an attribute that may be set later.

    Raises:
        InvalidSetting: A number is out of its range.

    Source: Michael Nygard, "Release It!", 2007, chapter 5; the rate over a window with a
    minimum is that of resilience4j's `CircuitBreakerConfig`; the ramp and its first tenth are
    Envoy's slow start.

    versionadded: 0.1
    """

    def __init__(
        self,
        failure_rate: float = 0.5,
        *,
        min_calls: int = 20,
        window: float = 10.0,
        open_for: float = 5.0,
        ramp: float = 5.0,
        late_after: float = 0.5,
        name: str = "upstream",
        clock: Clock = MONOTONIC,
        events: Events | None = None,
    ) -> None:
        if not 0 < failure_rate <= 1:
            raise InvalidSetting(f"CircuitBreaker(failure_rate={failure_rate!r}) must be in (0, 1]")
        check_count("CircuitBreaker", min_calls=min_calls)
        check_seconds("CircuitBreaker", window=window, open_for=open_for, late_after=late_after)
        check_seconds("CircuitBreaker", or_zero=True, ramp=ramp)
        self._failure_rate = failure_rate
        self._min_calls = min_calls
        self._open_for = open_for
        self._ramp = ramp
        self.late_after = late_after
        self.events = events
        self._name = name
        self._clock = clock
        self._opened_at: float | None = None
        self._ramp_began_at: float | None = None
        self._credit = 0.0
        self._has_probe = False
        self._generation = 0
        self._in_flight = 0  # of this generation
        self._refused = 0
        self._reason = ""
        self._recent = RecentCounts(window=window, clock=clock)  # ended, and of these failed
        register("breaker", self)

    @property
    def name(self) -> str:
        """What errors and events call it."""
        return self._name

    @property
    def circuit(self) -> Circuit:
        """The state it is in now."""
        if self._opened_at is not None:
            is_over = self._clock.now() >= self._opened_at + self._open_for
            return Circuit.HALF_OPEN if is_over else Circuit.OPEN
        return Circuit.CLOSED if self._share() >= 1 else Circuit.RAMPING

    @property
    def refused(self) -> int:
        """How many attempts it has not let through."""
        return self._refused

    def statistics(self) -> BreakerStatistics:
        """Return the counts of this moment."""
        return BreakerStatistics(
            circuit=self.circuit.value,
            in_flight=self._in_flight,
            refused=self._refused,
            ended=self._recent.first,
            failed=self._recent.second,
        )

    @property
    def would_permit(self) -> bool:
        """Whether `permit` would let an attempt through now."""
        return self._has_room(self.circuit, self._credit + self._share())

    def permit(self) -> Permit:
        """Return leave for one attempt, without waiting.

        Raises:
            CircuitOpen: The breaker is open, half-open with its probe under way, or ramping and
                not yet to this attempt (503).
        """
        circuit = self.circuit
        if circuit is Circuit.RAMPING:
            self._credit += self._share()
        if not self._has_room(circuit, self._credit):
            self._refused += 1
            raise self._refusal()
        self._credit = max(0.0, self._credit - 1)
        if circuit is Circuit.CLOSED and self._ramp_began_at is not None:
            self._ramp_began_at = None
            self._emit("its ramp is over")
        self._in_flight += 1
        self._has_probe = circuit is Circuit.HALF_OPEN
        return Permit(self, self._generation, is_probe=self._has_probe)

    def _has_room(self, circuit: Circuit, credit: float) -> bool:
        match circuit:
            case Circuit.CLOSED:
                return True
            case Circuit.HALF_OPEN:
                return not self._has_probe
            case Circuit.RAMPING:
                return credit >= 1 or self._in_flight == 0
            case Circuit.OPEN:
                return False

    def _share(self) -> float:
        """Return the share of attempts that is let through, apart from an open circuit."""
        if self._ramp_began_at is None:
            return 1.0
        share = (self._clock.now() - self._ramp_began_at) / self._ramp
        return min(1.0, max(_FIRST_SHARE, share))

    def _succeeded(self, permit: Permit) -> None:
        if permit.is_probe:
            self._change(opened_at=None, reason="its probe was answered")
        else:
            self._recent.add(1, 0)

    def _failed(self, permit: Permit) -> None:
        now = self._clock.now()
        if permit.is_probe:
            self._change(opened_at=now, reason="its probe failed")
            return
        recent = self._recent
        recent.add(1, 1)
        ended, failures = recent.first, recent.second
        if ended < self._min_calls or failures < self._failure_rate * ended:
            return
        self._change(opened_at=now, reason=f"{failures} of {ended} attempts failed")

    def _abandoned(self, permit: Permit) -> None:
        if permit.is_probe:
            self._has_probe = False

    def _change(self, *, opened_at: float | None, reason: str) -> None:
        is_ramping = opened_at is None and self._ramp > 0
        self._opened_at = opened_at
        self._ramp_began_at = self._clock.now() if is_ramping else None
        self._reason = reason
        self._credit = 0.0
        self._has_probe = False
        self._generation += 1
        self._in_flight = 0
        self._recent.forget()
        self._emit(reason)

    def _emit(self, reason: str) -> None:
        if self.events is not None:
            self.events.emit(CircuitChanged(self._name, self.circuit.value, reason))

    def _refusal(self) -> CircuitOpen:
        now, opened_at, ramp_began_at = self._clock.now(), self._opened_at, self._ramp_began_at
        if ramp_began_at is not None:
            left = ramp_began_at + self._ramp - now
            state = f"is ramping up, and lets {self._share():.0%} through for now"
        else:
            assert opened_at is not None  # closed lets everybody through
            left = opened_at + self._open_for - now
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
