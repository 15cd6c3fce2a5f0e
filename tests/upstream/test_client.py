"""Whose client it is: ours, yours, one with a limit around it, and one that is refused."""

import asyncio
import sys
import types

import httpx2
import pytest

from stormproof.errors import InvalidSetting, LimitExceeded, UpstreamFailed, UpstreamTimeout
from stormproof.limit import Limiter
from stormproof.upstream import Upstream
from tests.virtual_time import run_virtually

from .servers import Peer


async def test_client_of_yours_is_used_and_stays_open(server: Peer) -> None:
    async with httpx2.AsyncClient(base_url=server.url(""), headers={"x-mine": "1"}) as mine:
        async with Upstream(name="users", client=mine) as upstream:
            assert (await upstream.get("/ok")).json() == {"path": "/ok"}
            assert (await upstream.gather("/a", "/b")).is_complete
            with pytest.raises(UpstreamTimeout, match="'users'"):
                await upstream.get("/hang", timeout=0.05)
            with pytest.raises(UpstreamFailed, match="'users'"):
                await upstream.get("/garbage")
        assert (await mine.get("/ok")).status_code == 200
    assert all("x-mine: 1" in head for head in server.requests)


async def test_own_timeout_of_your_client_is_late_and_its_connect_timeout_unreached() -> None:
    def late(request: httpx2.Request) -> httpx2.Response:
        kind = httpx2.ConnectTimeout if request.url.path == "/connect" else httpx2.ReadTimeout
        raise kind("too slow", request=request)

    async with (
        httpx2.AsyncClient(transport=httpx2.MockTransport(late), base_url="http://a") as mine,
        Upstream(client=mine) as upstream,
    ):
        with pytest.raises(UpstreamTimeout):
            await upstream.get("/read")
        with pytest.raises(UpstreamFailed, match="could not be reached"):
            await upstream.get("/connect")


class OldClient:
    """Has the shape and the home of httpx's client."""

    __module__ = "httpx._client"

    def build_request(self, *args: object, **options: object) -> object:
        raise NotImplementedError

    async def send(self, *args: object, **options: object) -> object:
        raise NotImplementedError


@pytest.mark.parametrize("version", ["0.27.0", "0.28.1"])
def test_httpx_that_loses_slots_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_version(monkeypatch, version)
    with pytest.raises(InvalidSetting, match=f"httpx {version}, which loses a place"):
        Upstream(client=OldClient())


def test_later_httpx_is_not_accused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_version(monkeypatch, "1.0.0")
    Upstream(client=OldClient())


def with_version(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    module = types.ModuleType("httpx")
    module.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "httpx", module)


def test_settings_of_a_client_of_yours_are_its_own() -> None:
    with pytest.raises(InvalidSetting, match="set them on the client"):
        Upstream(client=httpx2.AsyncClient(), base_url="http://a")


def test_limit_bounds_the_calls_and_its_wait_counts() -> None:
    """Two slots, five calls of 1 s: two wait, one is shed, and the wait is told upstream."""
    told: list[str] = []

    async def answer(request: httpx2.Request) -> httpx2.Response:
        told.append(request.headers["x-request-timeout"])
        await asyncio.sleep(1.0)
        return httpx2.Response(200)

    async def main() -> None:
        limit = Limiter(2, max_wait=1.5)
        async with Upstream(
            limit=limit,
            base_url="http://a",
            timeout=3.0,
            transport=httpx2.MockTransport(answer),
        ) as upstream:
            results = await asyncio.gather(
                *(upstream.get("/") for _ in range(5)), return_exceptions=True
            )
            assert [getattr(r, "status_code", type(r)) for r in results] == [
                200, 200, 200, 200, LimitExceeded,
            ]  # fmt: skip
            counts = upstream.statistics()
            assert (counts.calls, counts.failed, counts.timed_out) == (5, 0, 0)
        assert limit.statistics().in_use == 0

    run_virtually(main())
    assert told == ["3.000", "3.000", "2.000", "2.000"]


def test_time_over_in_the_queue_of_the_limit_is_late_and_gives_the_slot_back() -> None:
    async def answer(request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(5.0)
        return httpx2.Response(200)

    async def main() -> None:
        limit = Limiter(1, max_wait=10.0)
        async with Upstream(
            limit=limit, base_url="http://a", transport=httpx2.MockTransport(answer)
        ) as upstream:
            first = asyncio.create_task(upstream.get("/"))
            await asyncio.sleep(0.1)
            with pytest.raises(UpstreamTimeout):
                await upstream.get("/", timeout=1.0)
            assert (await first).status_code == 200
            assert (await upstream.gather("/a", "/b", min_success=0, timeout=1.0)).errors
        assert limit.statistics().in_use == limit.statistics().waiting == 0

    run_virtually(main())
