"""Operations: the calls of an upstream that take alike, and what each took lately."""

import re
from typing import Any

from stormproof._core.clock import Clock

from ._latency import RotatingQuantile

OPERATION = "stormproof.operation"
"""The extension of a request that names its operation."""

_MOST = 64
_VARYING = re.compile(r"[^/]*\d[^/]*|[^/]{25,}")


class Latencies:
    """Keeps the latency of 64 operations apart, and that of all others together.

    An operation that was not called for a whole window makes room for another.

    Args:
        window: Seconds that each looks back.
        clock: Where the time is read.
    """

    def __init__(self, *, window: float, clock: Clock) -> None:
        self._window = window
        self._clock = clock
        self._operations: dict[str, RotatingQuantile] = {}
        self._others = RotatingQuantile(window=window, clock=clock)
        self._looked_at = 0.0

    def of(self, request: Any) -> RotatingQuantile:
        """Return the latency of the operation that `request` is of."""
        operation = operation_of(request)
        latency = self._operations.get(operation)
        if latency is not None:
            return latency
        if len(self._operations) >= _MOST and not self._has_forgotten():
            return self._others
        latency = RotatingQuantile(window=self._window, clock=self._clock)
        self._operations[operation] = latency
        return latency

    def _has_forgotten(self) -> bool:
        """Forget what was not called lately, if there is any; looks once in a window."""
        now = self._clock.now()
        if now < self._looked_at + self._window:
            return False
        self._looked_at = now
        self._operations = {
            name: latency for name, latency in self._operations.items() if latency.total
        }
        return len(self._operations) < _MOST


def operation_of(request: Any) -> str:
    """Return the operation's name: what its caller called it, or method, host and path.

    In a path, segments with a digit or of more than 24 characters are `*`: they are ids.
    """
    named = request.extensions.get(OPERATION)
    url = request.url
    return named or f"{request.method} {url.host}{_VARYING.sub('*', url.path)}"
