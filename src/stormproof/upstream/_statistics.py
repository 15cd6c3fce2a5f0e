"""Counts: what an upstream is doing and has done."""

from dataclasses import dataclass


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
    """

    in_flight: int
    calls: int
    failed: int
    timed_out: int
    connections_opened: int


class Counts:
    """The same counts while they change."""

    __slots__ = ("calls", "connections_opened", "failed", "in_flight", "timed_out")

    def __init__(self) -> None:
        self.in_flight = self.calls = self.failed = self.timed_out = 0
        self.connections_opened = 0
