"""`SharedQuotas`: the quotas of a rate limit in Redis, asked in one bounded round trip."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stormproof._core.clock import Clock
from stormproof._core.deadline import remaining
from stormproof.errors import InvalidSetting, MissingExtra

from ._gcra import ROUNDING, Quota, Verdict, allowed, refused

if TYPE_CHECKING:
    from redis.asyncio import Redis

_PREFIX = "stormproof:rate:"
_SCHEMES = ("redis://", "rediss://", "unix://")
_CONNECTIONS = 20
_LEAVE_ALONE = 1.0  # seconds; a store that failed is asked again by one call in that time

# GCRA as in `judge`, by the store's own clock: those of the workers differ. Microseconds since
# 2023, so that a double has room for fractions of one.
_SCRIPT = """
local time = redis.call('TIME')
local now = (time[1] - 1672531200) * 1000000 + time[2]
local interval, window, rounding = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local full_at = tonumber(redis.call('GET', KEYS[1]) or now)
local reset = math.max(full_at - now, 0) + interval
if reset - window > interval * rounding then
  return {0, string.format('%.3f', full_at - now)}
end
redis.call('SET', KEYS[1], string.format('%.3f', now + reset), 'PX', math.ceil(reset / 1000))
return {1, string.format('%.3f', reset)}
"""


class SharedQuotas:
    """The quotas of one rate limit in a Redis that several processes share.

    A call is one script, so that nobody comes between the look and the count. When the store
    does not answer within `timeout` it is left alone for a second, in which every call is told
    so at once; then one call finds out whether it is back, and the others do not wait for that.

    Connects at the first call, and anew on another event loop. `last_error` is why the store was
    last given up.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        name: Of the rate limit; processes with the same name share its quotas.
        quota: How many calls in which time.
        timeout: Seconds a call waits for the store at most, its connection included.
        clock: Where the time is read.

    Raises:
        InvalidSetting: The URL is for something else.
        MissingExtra: redis-py is not installed.
    """

    def __init__(self, url: str, name: str, quota: Quota, timeout: float, clock: Clock) -> None:
        if not url.startswith(_SCHEMES):
            raise InvalidSetting(f"RateLimit(store=…) must begin with one of {', '.join(_SCHEMES)}")
        self._connect, self._error = _connector(url, timeout)
        self._prefix = f"{_PREFIX}{name}:"
        self._timeout = timeout
        self._quota = quota
        interval, window = quota.interval * 1e6, quota.seconds * 1e6
        self._arguments = [repr(interval), repr(window), repr(ROUNDING)]
        self._clock = clock
        self._down_until: float | None = None
        self.last_error = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._redis: Redis | None = None
        self._script: Any = None

    @property
    def is_down(self) -> bool:
        """Whether the last call that asked the store got no answer."""
        return self._down_until is not None

    async def take(self, key: object) -> Verdict | None:
        """Count one call of `key`; None when the store does not tell in time.

        Waits `timeout` seconds at most and never past the deadline. Cancelled: the call may be
        counted or not.
        """
        now = self._clock.now()
        if self._down_until is not None:
            if now < self._down_until:
                return None
            self._down_until = now + _LEAVE_ALONE  # this one goes and looks
        left = remaining()
        try:
            async with asyncio.timeout(self._timeout if left is None else min(left, self._timeout)):
                is_allowed, reset = await self._ask(f"{self._prefix}{key}")
        except (OSError, self._error) as error:
            # Of a caller whose own time was too short nothing is learned about the store.
            if not isinstance(error, TimeoutError) or left is None or left > self._timeout:
                self._down_until = self._clock.now() + _LEAVE_ALONE
                self.last_error = f"{type(error).__name__}: {error}"
            return None
        self._down_until = None
        seconds = float(reset) / 1e6
        return (allowed if is_allowed else refused)(self._quota, seconds)

    async def close(self) -> None:
        """Give the connections back; a later call opens new ones."""
        redis, self._redis = self._redis, None
        if redis is not None and self._loop is asyncio.get_running_loop():
            await redis.aclose()

    async def _ask(self, key: str) -> tuple[int, bytes]:
        loop = asyncio.get_running_loop()
        if self._redis is None or self._loop is not loop:
            self._loop, self._redis = loop, self._connect()
            self._script = self._redis.register_script(_SCRIPT)
        answer: tuple[int, bytes] = await self._script(keys=[key], args=self._arguments)
        return answer


def _connector(url: str, timeout: float) -> "tuple[Callable[[], Redis], type[Exception]]":
    """Return what makes a client, and the class of its errors.

    Imported when the limit is made, and not at its first call, which runs on the event loop.
    """
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError
    except ModuleNotFoundError as exc:
        raise MissingExtra(
            "RateLimit(store=...) needs 'redis'; install it with pip install 'stormproof[redis]'"
        ) from exc

    def connect() -> Redis:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=timeout,
            protocol=2,
            driver_info=None,  # with RESP2: connecting is one round trip, and not three
            # Once, at once: a connection of before the store was restarted is only then found dead.
            retry=Retry(NoBackoff(), 1),
        )
        return Redis.from_pool(pool)

    return connect, RedisError
