"""`RateLimit`: how many calls in a time each caller has, and the headers that say so."""

import math
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from stormproof._core.asgi import Scope
from stormproof._core.clock import MONOTONIC, Clock
from stormproof._core.events import Events, RateRefused
from stormproof.errors import InvalidSetting, RateLimited

from ._checked import checked_count, checked_seconds
from ._gcra import Quota, Verdict, judge

_KEYS_KEPT = 1024
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")

Fields = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class RateStatistics:
    """What a rate limit has done; `keys` are the callers whose quota is not full now."""

    allowed: int
    refused: int
    keys: int


def client_host(scope: Scope) -> Hashable:
    """Return the address of the client, as the server sees it; behind a proxy, the proxy's."""
    client = scope.get("client")
    return client[0] if client else None


class RateLimit:
    """Lets each caller make `calls` calls in `per` seconds, and answers 429 to what is more.

    A quota that is used up comes back evenly, one call each `per / calls` seconds; all of it
    may be used at once. For callers over *their* quota; a service that is too busy sheds with
    a `Limiter` (503). It counts in one process: four workers allow four times as much.

    Args:
        calls: Calls in a window; at least 1.
        per: Seconds of a window, above 0.
        key: Whose quota it is, from the ASGI scope; by default the client's address. A key that
            has its whole quota again is forgotten.
        name: What the headers, messages and metrics call it: letters, digits and `_.:/-`.
        events: Where `RateRefused` goes; also an attribute that may be set later.
        clock: Where the time is read.

    Raises:
        InvalidSetting: A number is of the wrong type or out of its range, or the name does not
            fit into a header.

    versionadded: 0.1
    """

    def __init__(
        self,
        calls: int,
        *,
        per: float,
        key: Callable[[Scope], Hashable] = client_host,
        name: str = "default",
        events: Events | None = None,
        clock: Clock = MONOTONIC,
    ) -> None:
        checked_count("calls", calls, of="a RateLimit")
        if checked_seconds("per", per, of="a RateLimit") == 0.0:
            raise InvalidSetting("per of a RateLimit must be above 0")
        if not _NAME.fullmatch(name):
            raise InvalidSetting(
                f"name of a RateLimit must be of letters, digits and _.:/- only, not {name!r}"
            )
        self.quota = Quota(calls, float(per))
        self.name = name
        self.events = events
        self._key = key
        self._clock = clock
        self._full_at: dict[Hashable, float] = {}
        self._sweep_at = _KEYS_KEPT
        self._allowed = self._refused = 0

    def take(self, key: Hashable = None) -> Verdict:
        """Count one call of `key` and return the verdict; a refused one costs nothing."""
        now = self._clock.now()
        verdict = judge(self.quota, self._full_at.get(key, now), now)
        if verdict.is_allowed:
            self._allowed += 1
            self._full_at[key] = verdict.full_at
            if len(self._full_at) > self._sweep_at:
                self._forget_full(now)
        else:
            self._refused += 1
        return verdict

    def check(self, scope: Scope) -> Fields:
        """Count the request of `scope`; return the headers for its answer.

        Raises:
            RateLimited: Its caller is over its quota (429); carries the headers, too.
        """
        verdict = self.take(self._key(scope))
        fields = self._fields(verdict)
        if verdict.is_allowed:
            return fields
        if self.events is not None:
            self.events.emit(RateRefused(self.name, verdict.retry_after))
        quota = self.quota
        raise RateLimited(
            f"rate limit {self.name!r} is used up ({quota.calls} calls in {quota.seconds:g} s); "
            f"the next call is allowed in {verdict.retry_after:.2f} s",
            retry_after=verdict.retry_after,
            fields=fields,
        )

    def statistics(self) -> RateStatistics:
        """Return the counts of this moment; for a scrape, at any time."""
        self._forget_full(self._clock.now())
        return RateStatistics(self._allowed, self._refused, len(self._full_at))

    def _fields(self, verdict: Verdict) -> Fields:
        """Return the fields of draft-ietf-httpapi-ratelimit-headers-11 (RFC 9651 lists).

        `w` and `t` are whole seconds: a window of less than one is told as 1.
        """
        window = max(1, round(self.quota.seconds))
        policy = f'"{self.name}";q={self.quota.calls};w={window}'
        limit = f'"{self.name}";r={verdict.remaining};t={_whole(verdict.reset)}'
        return (b"ratelimit-policy", policy.encode()), (b"ratelimit", limit.encode())

    def _forget_full(self, now: float) -> None:
        """Drop the keys whose quota is whole again; O(1) for each call over time."""
        self._full_at = {key: at for key, at in self._full_at.items() if at > now}
        self._sweep_at = 2 * len(self._full_at) + _KEYS_KEPT


def _whole(seconds: float) -> int:
    """Return whole seconds, rounded up; a last bit of a sum of floats is not another second."""
    return math.ceil(seconds - 1e-6)
