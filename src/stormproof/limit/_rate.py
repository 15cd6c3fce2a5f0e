"""`RateLimit`: how many calls in a time each caller has, and the headers that say so."""

import math
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from stormproof._arguments import check_count, check_seconds
from stormproof._core.asgi import Scope
from stormproof._core.clock import MONOTONIC, Clock
from stormproof._core.events import Events, RateRefused, RateStoreLost, RateStoreRegained
from stormproof._core.primitives import register
from stormproof.errors import InvalidSetting, RateLimited, RateStoreDown

from ._gcra import Quota, Verdict, allowed, judge
from ._store import SharedQuotas

_KEYS_KEPT = 1024
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")

Fields = tuple[tuple[bytes, bytes], ...]

OnStoreDown: TypeAlias = Literal["count", "allow", "refuse"]
"""What becomes of a call of which the store does not tell: counted here, allowed or refused."""


@dataclass(frozen=True, slots=True)
class RateStatistics:
    """What a rate limit has done.

    Attributes:
        allowed: Calls that were allowed.
        refused: Calls that were over the quota of their caller.
        keys: Callers whose quota is not full now; with a store, those counted without it.
        unknown: Calls of which the store did not tell; they are in one of the others too, or,
            where `on_store_down` is "refuse", in none.
    """

    allowed: int
    refused: int
    keys: int
    unknown: int = 0


def client_host(scope: Scope) -> Hashable:
    """Return the address of the client, as the server sees it; behind a proxy, the proxy's."""
    client = scope.get("client")
    return client[0] if client else None


class RateLimit:
    """Lets each caller make `calls` calls in `per` seconds, and answers 429 to what is more.

    A quota that is used up comes back evenly, one call each `per / calls` seconds; all of it
    may be used at once. For callers over *their* quota; a service that is too busy sheds with
    a `Limiter` (503).

    It counts in this process, so that four workers allow four times as much, or with `store` in
    a Redis that all of them share (extra `redis`), one round trip a call. A store that is away
    costs one call `store_timeout` each second, and the others nothing.

    Args:
        calls: Calls in a window; at least 1.
        per: Seconds of a window, above 0.
        key: Whose quota it is, from the ASGI scope; by default the client's address. A key that
            has its whole quota again is forgotten.
        name: What the headers, messages and metrics call it: letters, digits and `_.:/-`. In a
            store, limits of one name share their quotas.
        store: `redis://host:port/0` (or `rediss://`, `unix://`); None: this process alone.
        on_store_down: When the store does not tell, "count" in this process alone, "allow"
            every call, or "refuse" it with 503.
        store_timeout: Seconds a call waits for the store at most; a nearer deadline wins.
        events: Where `RateRefused` and `RateStoreLost` go; also an attribute that may be set
            later.
        clock: Where the time is read.

    Raises:
        InvalidSetting: A number is of the wrong type or out of its range, the name does not
            fit into a header, or the store is none.
        MissingExtra: `store` is given and redis-py is not installed.

    versionadded: 0.1
    """

    def __init__(
        self,
        calls: int,
        *,
        per: float,
        key: Callable[[Scope], Hashable] = client_host,
        name: str = "default",
        store: str | None = None,
        on_store_down: OnStoreDown = "count",
        store_timeout: float = 0.1,
        events: Events | None = None,
        clock: Clock = MONOTONIC,
    ) -> None:
        check_count("RateLimit", calls=calls)
        check_seconds("RateLimit", per=per)
        check_seconds("RateLimit", or_zero=True, store_timeout=store_timeout)
        if not _NAME.fullmatch(name):
            raise InvalidSetting(
                f"RateLimit(name={name!r}) must be of letters, digits and _.:/- only"
            )
        if on_store_down not in get_args(OnStoreDown):
            raise InvalidSetting(
                f"RateLimit(on_store_down={on_store_down!r}) must be one of "
                f"{', '.join(get_args(OnStoreDown))}"
            )
        self.quota = Quota(calls, float(per))
        self.name = name
        self.events = events
        self._key = key
        self._clock = clock
        self._shared = (
            None if store is None else SharedQuotas(store, name, self.quota, store_timeout, clock)
        )
        self._on_store_down = on_store_down
        self._full_at: dict[Hashable, float] = {}
        self._sweep_at = _KEYS_KEPT
        self._allowed = self._refused = self._unknown = 0
        register("rate", self)

    async def take(self, key: Hashable = None) -> Verdict:
        """Count one call of `key` and return the verdict; a refused one costs nothing.

        Waits for the store, if there is one, at most `store_timeout` and never past the
        deadline. Cancelled: the call may be counted or not.

        Raises:
            RateStoreDown: The store did not tell, and `on_store_down` is "refuse" (503).
        """
        verdict = None if self._shared is None else await self._ask(self._shared, key)
        if verdict is None:
            verdict = self._count(key)
        if verdict.is_allowed:
            self._allowed += 1
        else:
            self._refused += 1
        return verdict

    async def check(self, scope: Scope) -> Fields:
        """Count the request of `scope`, as `take`; return the headers for its answer.

        Raises:
            RateLimited: Its caller is over its quota (429); carries the headers, too.
            RateStoreDown: As `take`.
        """
        verdict = await self.take(self._key(scope))
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

    async def close(self) -> None:
        """Give the connections to the store back; `install` does it for the limits of its app."""
        if self._shared is not None:
            await self._shared.close()

    def statistics(self) -> RateStatistics:
        """Return the counts of this moment; for a scrape, at any time."""
        now = self._clock.now()
        keys = sum(at > now for at in tuple(self._full_at.values()))
        return RateStatistics(self._allowed, self._refused, keys, self._unknown)

    async def _ask(self, shared: SharedQuotas, key: Hashable) -> Verdict | None:
        """Return the store's verdict, or that of `on_store_down`; None: count here."""
        was_down = shared.is_down
        verdict = await shared.take(key)
        if shared.is_down != was_down and self.events is not None:
            self.events.emit(
                RateStoreLost(self.name, shared.last_error)
                if shared.is_down
                else RateStoreRegained(self.name)
            )
        if verdict is not None:
            return verdict
        self._unknown += 1
        if self._on_store_down == "refuse":
            raise RateStoreDown(
                f"rate limit {self.name!r} cannot tell what its caller has left, because its "
                "store does not answer; try again, or let on_store_down be 'count'",
                retry_after=1.0,
            )
        if self._on_store_down == "allow":
            return allowed(self.quota, 0.0)
        return None

    def _count(self, key: Hashable) -> Verdict:
        now = self._clock.now()
        verdict = judge(self.quota, self._full_at.get(key, now) - now)
        if verdict.is_allowed:
            self._full_at[key] = now + verdict.reset
            if len(self._full_at) > self._sweep_at:
                self._forget_full(now)
        return verdict

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
