"""A scripted other side in virtual time: what it answers, and when it was asked."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

from stormproof.upstream import Upstream
from tests.virtual_time import run_virtually


@dataclass(frozen=True)
class Step:
    """One answer: after `delay` seconds a status, or an error."""

    status: int = 200
    delay: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    error: type[httpx2.RequestError] | None = None


@dataclass
class Script:
    """Answers by its steps, one after another; the last one for ever.

    Attributes:
        asked_at: When each request came, in seconds since the first.
        told: What each was told of the time left.
        cancelled: How many were given up by the caller.
        running: How many are being answered now.
    """

    steps: Sequence[Step]
    asked_at: list[float] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    requests: list[httpx2.Request] = field(default_factory=list)
    cancelled: int = 0
    running: int = 0
    began_at: float | None = None

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        now = asyncio.get_running_loop().time()
        if self.began_at is None:
            self.began_at = now
        step = self.steps[min(len(self.asked_at), len(self.steps) - 1)]
        self.asked_at.append(round(now - self.began_at, 6))
        self.told.append(request.headers["x-request-timeout"])
        self.requests.append(request)
        self.running += 1
        try:
            await asyncio.sleep(step.delay)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        if step.error is not None:
            raise step.error("as scripted", request=request)
        return httpx2.Response(step.status, headers=step.headers)


def play(script: Script, main: Callable[[Upstream], Awaitable[Any]], **settings: Any) -> Any:
    """Run `main` in virtual time with an upstream that answers by `script`."""

    async def run() -> Any:
        settings.setdefault("base_url", "http://a")
        transport = httpx2.MockTransport(script.answer)
        async with Upstream(name="a", transport=transport, **settings) as upstream:
            return await main(upstream)

    return run_virtually(run())
