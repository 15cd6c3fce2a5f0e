"""The rate: so many a second of each kind, so that a flood of events costs the app nothing."""

import time


class Rate:
    """Allows the first `most` of each key in each second; from any thread, roughly."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._second = 0
        self._seen: dict[object, int] = {}

    def allows(self, key: object) -> bool:
        """Return whether one more of this key may pass in this second."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._seen = second, {}
        seen = self._seen[key] = self._seen.get(key, 0) + 1
        return seen <= self._most
