"""Dependencies that bound a route: how long it may take, how often it may be called."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, Request
from fastapi.responses import Response

from stormproof.deadline import limit_request
from stormproof.errors import InvalidSetting
from stormproof.limit import RateLimit


def route_deadline(seconds: float) -> Any:
    """Return a dependency that lets its route take at most `seconds` from its arrival.

    To be used as `@app.get("/report", dependencies=[stormproof.route_deadline(5.0)])`.
    It can only shorten what the header or the default allows. Unlike the default it covers
    the body too: a stream that is not over by then is ended without a final chunk.
    """
    if not 0 < seconds < float("inf"):
        raise InvalidSetting(f"route_deadline must be a number of seconds above 0; got {seconds!r}")

    async def shorten_deadline(request: Request) -> None:
        limit_request(request.scope, seconds)

    return Depends(shorten_deadline)


def rate_limit(limit: RateLimit) -> Any:
    """Return a dependency that counts each call of its route against `limit`.

    To be used as `@app.get("/search", dependencies=[stormproof.rate_limit(searches)])`.
    The answer says what is left of the quota (`RateLimit`, `RateLimit-Policy`), but not where
    the endpoint returns a `Response` of its own. For whole paths, `AdmissionRule(rate=...)` is
    cheaper, and comes before other dependencies.

    Raises (in the request):
        RateLimited: The caller is over its quota (429).
        RateStoreDown: Its store does not tell, and it is to refuse then (503).
    """

    return Depends(Counted(limit))


@dataclass(frozen=True)
class Counted:
    """The dependency of `rate_limit`; equal for one limit, which FastAPI then asks once."""

    limit: RateLimit

    async def __call__(self, request: Request, response: Response) -> None:
        """Count the request; its answer says what is left."""
        for name, value in await self.limit.check(request.scope):
            response.headers[name.decode()] = value.decode()


def rate_limits_of(route: Any) -> Iterator[RateLimit]:
    """Yield the rate limits that a route, or its context, asks in its dependencies."""
    waiting = [route.dependant] if getattr(route, "dependant", None) is not None else []
    while waiting:
        dependant = waiting.pop()
        waiting += dependant.dependencies
        if isinstance(dependant.call, Counted):
            yield dependant.call.limit
