"""A cache that gives what it had, with its age, when asking again fails."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

from stormproof._arguments import check_count, check_seconds
from stormproof._core.clock import MONOTONIC, Clock

from ._single_flight import SingleFlight

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cached(Generic[T]):
    """A value and how old it is.

    Attributes:
        value: What the refresh returned.
        age: Seconds since it was fetched.
        error: Why it could not be refreshed; None: it is fresh.
    """

    value: T
    age: float
    error: Exception | None = None

    @property
    def is_stale(self) -> bool:
        """Whether it is older than it should be, because a refresh failed."""
        return self.error is not None


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    value: T
    fetched_at: float


class StaleCache(Generic[T]):
    """Keeps what was fetched: fresh for a while, and stale for longer where fetching fails.

    All who want the same key at once share one refresh (`SingleFlight`), whose time is its own.
    The least recently used entry leaves when there are too many.

    Args:
        fresh_for: Seconds for which a value is given without asking.
        stale_for: Seconds, after that, for which it is given when a refresh fails.
        max_entries: How many values are kept at most.
        timeout: Seconds a refresh may take.
        name: What errors call it.
        clock: Where the time is read.

    Raises:
        InvalidSetting: A number is out of its range.

    Source: RFC 5861, section 4 (`stale-if-error`).

    versionadded: 0.1
    """

    def __init__(
        self,
        *,
        fresh_for: float,
        stale_for: float,
        max_entries: int = 1000,
        timeout: float = 10.0,
        name: str = "cache",
        clock: Clock = MONOTONIC,
    ) -> None:
        check_seconds("StaleCache", or_zero=True, fresh_for=fresh_for, stale_for=stale_for)
        check_count("StaleCache", max_entries=max_entries)
        self._fresh_for = fresh_for
        self._stale_for = stale_for
        self._max_entries = max_entries
        self._clock = clock
        self._flights: SingleFlight[_Entry[T]] = SingleFlight(timeout=timeout, name=name)
        self._entries: OrderedDict[Hashable, _Entry[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, key: Hashable, refresh: Callable[[], Awaitable[T]]) -> Cached[T]:
        """Return the value for `key`: a fresh one, a new one, or, if that fails, the old one.

        Waits for the refresh, which it may share, and never past the deadline in force here.
        Cancelled: as `SingleFlight.do`; what was kept stays.

        Args:
            key: What is asked for; everything that changes the answer must be in it.
            refresh: Fetches the value; raises when it cannot.

        Raises:
            Exception: What `refresh` raised, or its timeout, when there is no value that is
                young enough.
        """
        kept = self._kept(key)
        if kept is not None and self._age(kept) < self._fresh_for:
            return Cached(kept.value, self._age(kept))
        try:
            entry = await self._flights.do(key, lambda: self._fetched(key, refresh))
        except Exception as exc:
            # Asked again: the refresh may have taken long, or somebody else's has come.
            kept = self._kept(key)
            if kept is None:
                raise
            is_fresh = self._age(kept) < self._fresh_for
            return Cached(kept.value, self._age(kept), None if is_fresh else exc)
        return Cached(entry.value, self._age(entry))

    def forget(self, key: Hashable) -> None:
        """Drop the value for `key`, if there is one; a refresh under way still stores its own."""
        self._entries.pop(key, None)

    async def close(self) -> None:
        """Cancel and await the refreshes under way."""
        await self._flights.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _fetched(self, key: Hashable, refresh: Callable[[], Awaitable[T]]) -> _Entry[T]:
        value = await refresh()
        entry = self._entries[key] = _Entry(value, self._clock.now())
        self._entries.move_to_end(key)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
        return entry

    def _kept(self, key: Hashable) -> _Entry[T] | None:
        """Return the entry for `key` that may still be given, and note that it was used."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._age(entry) >= self._fresh_for + self._stale_for:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry

    def _age(self, entry: _Entry[T]) -> float:
        return self._clock.now() - entry.fetched_at
