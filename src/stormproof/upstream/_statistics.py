"""Counts: what an upstream is doing and has done."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class UpstreamStatistics:
    """What an upstream is doing and has done since it was made.

    Attributes:
        in_flight: Calls under way now.
        calls: Calls begun.
        failed: Calls that ended in `UpstreamFailed`.
        timed_out: Calls that ended in `UpstreamTimeout`.
        connections_opened: Connections made, as far as the transport tells (httpx2's own and
            `AiohttpTransport` do); far fewer than `calls` where they are kept.
        retries: Attempts after a failed one.
        hedges: Attempts beside a slow one.
        hedges_won: Of these, the ones whose answer was taken.
        extra_refused: Retries and hedges that the budget did not allow.
        circuit: "closed", "open", "half-open" or "ramping"; None without a circuit breaker.
    """

    in_flight: int
    calls: int
    failed: int
    timed_out: int
    connections_opened: int
    retries: int = 0
    hedges: int = 0
    hedges_won: int = 0
    extra_refused: int = 0
    circuit: str | None = None


@dataclass(frozen=True, slots=True)
class BreakerStatistics:
    """What a circuit breaker lets through, and what it counts.

    Attributes:
        circuit: "closed", "open", "half-open" or "ramping".
        in_flight: Attempts under way that it let through since it last changed.
        refused: Attempts that it has not let through.
        ended: Attempts that ended in its window, as of the last one.
        failed: Of these, the ones that failed.
    """

    circuit: str
    in_flight: int
    refused: int
    ended: int
    failed: int


@dataclass(eq=False, slots=True)
class Counts:
    """The same counts while they change."""

    in_flight: int = 0
    calls: int = 0
    failed: int = 0
    timed_out: int = 0
    connections_opened: int = 0
    retries: int = 0
    hedges: int = 0
    hedges_won: int = 0
    extra_refused: int = 0

    def frozen(self, *, circuit: str | None) -> UpstreamStatistics:
        """Return the counts of this moment, with the state of the circuit breaker."""
        return UpstreamStatistics(**asdict(self), circuit=circuit)
