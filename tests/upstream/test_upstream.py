import asyncio
import random
import time

import httpx2
import pytest

from stormproof._core.deadline import Deadline, in_force
from stormproof._core.events import Event
from stormproof._core.events import UpstreamFailed as UpstreamFailedEvent
from stormproof._core.lifecycle import Lifecycle
from stormproof.errors import InvalidSetting, NotStarted, UpstreamFailed, UpstreamTimeout
from stormproof.upstream import Upstream, UpstreamStatistics
from stormproof.upstream._aiohttp import AiohttpTransport
from tests.harness import free_port, until

from .servers import Peer, told_seconds


async def test_answer_comes_back_and_the_connection_is_used_again(
    upstream: Upstream, server: Peer
) -> None:
    for number in range(3):
        response = await upstream.get("/ok", params={"n": number})
        assert (response.status_code, response.json()) == (200, {"path": "/ok"})
    assert len(server.requests) == 3
    assert server.open_connections == 1
    assert upstream.statistics() == UpstreamStatistics(
        in_flight=0, calls=3, failed=0, timed_out=0, connections_opened=1
    )


@pytest.mark.parametrize("verb", ["post", "put", "patch", "delete"])
async def test_each_verb_makes_its_call(upstream: Upstream, server: Peer, verb: str) -> None:
    response = await getattr(upstream, verb)("/ok")
    assert response.status_code == 200
    assert server.requests[0].startswith(verb.upper())


async def test_remaining_time_is_told_to_the_upstream(upstream: Upstream, server: Peer) -> None:
    await upstream.get("/ok")
    with in_force(Deadline(time.monotonic() + 2.0)):
        await upstream.get("/ok")
        await upstream.get("/ok", timeout=0.5)
    told = [float(told_seconds(head)) for head in server.requests]
    assert 2.0 < told[0] <= 5.0  # what remains when it is sent, in whole milliseconds
    assert 0.5 < told[1] <= 2.0
    assert 0.0 < told[2] <= 0.5


async def test_cookies_of_one_caller_are_not_sent_for_the_next(
    upstream: Upstream, server: Peer
) -> None:
    await upstream.get("/ok")
    await upstream.get("/ok")
    await upstream.get("/ok", headers={"cookie": "mine=1"})
    assert ["cookie:" in head.lower() for head in server.requests] == [False, False, True]


@pytest.mark.parametrize("path", ["/hang", "/drip"])
async def test_time_is_a_total_also_for_a_server_that_drips(upstream: Upstream, path: str) -> None:
    started_at = time.monotonic()
    with pytest.raises(UpstreamTimeout) as caught:
        await upstream.get(path, params={"token": "secret"}, timeout=0.2)
    assert time.monotonic() - started_at < 1.0
    message = str(caught.value)
    assert "'users' did not answer GET http://127.0.0.1" in message
    assert "within 0.200 s" in message
    assert "secret" not in message
    assert caught.value.status == 504


async def test_deadline_of_the_request_bounds_the_call(upstream: Upstream) -> None:
    deadline = Deadline(time.monotonic() + 0.1)
    with in_force(deadline), pytest.raises(UpstreamTimeout, match=r"within 0\.\d+ s"):
        await upstream.get("/hang")


async def test_passed_deadline_is_an_error_before_anything_is_sent(
    upstream: Upstream, server: Peer
) -> None:
    deadline = Deadline(time.monotonic() - 1)
    with in_force(deadline), pytest.raises(UpstreamTimeout, match="was not asked for"):
        await upstream.get("/ok")
    assert server.requests == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/reset", "broke off"),
        ("/closed", "broke off"),
        ("/garbage", "answered wrongly"),
    ],
)
async def test_broken_answer_names_the_upstream(upstream: Upstream, path: str, words: str) -> None:
    with pytest.raises(UpstreamFailed, match=words) as caught:
        await upstream.get(path)
    assert caught.value.status == 502
    assert isinstance(caught.value, ConnectionError)
    assert (await upstream.get("/ok")).status_code == 200


async def test_refused_connection_names_the_upstream() -> None:
    async with Upstream(name="prices", base_url=f"http://127.0.0.1:{free_port()}") as upstream:
        with pytest.raises(UpstreamFailed, match="'prices' could not be reached"):
            await upstream.get("/ok")


async def test_bad_status_is_an_answer_unless_asked_otherwise(upstream: Upstream) -> None:
    assert (await upstream.get("/503")).status_code == 503
    with pytest.raises(UpstreamFailed, match="'users' answered 503 on GET"):
        await upstream.get("/503", raise_for_status=True)


async def test_failures_are_told_as_events(server: Peer) -> None:
    lifecycle = Lifecycle()
    seen: list[Event] = []
    lifecycle.events.subscribe(seen.append)
    upstream = Upstream(name="users", base_url=server.url(""))
    await upstream.open(lifecycle)
    try:
        with pytest.raises(UpstreamTimeout):
            await upstream.get("/hang", timeout=0.05)
        with pytest.raises(UpstreamFailed):
            await upstream.get("/garbage")
        await upstream.get("/ok")
    finally:
        assert await upstream.drain(0.0) == []
        await upstream.close()
    assert [event.timed_out for event in seen if isinstance(event, UpstreamFailedEvent)] == [
        True,
        False,
    ]


@pytest.mark.parametrize("is_aiohttp", [False, True])
async def test_random_cancels_give_every_place_in_the_pool_back(
    server: Peer, is_aiohttp: bool
) -> None:
    generator = random.Random(7)
    transport = AiohttpTransport(max_connections=5) if is_aiohttp else None
    async with Upstream(
        base_url=server.url(""), max_connections=5, timeout=5.0, transport=transport
    ) as upstream:

        async def cancelled(path: str) -> None:
            task = asyncio.create_task(upstream.get(path))
            for _ in range(generator.randrange(0, 60)):
                await asyncio.sleep(0)
            if generator.random() < 0.5:
                await asyncio.sleep(generator.random() * 0.01)
            task.cancel()
            await asyncio.wait([task])

        for _ in range(20):
            paths = (generator.choice(["/ok", "/hang", "/drip"]) for _ in range(10))
            await asyncio.gather(*(cancelled(path) for path in paths))
        answers = await asyncio.gather(*(upstream.get("/ok") for _ in range(20)))
        assert [answer.status_code for answer in answers] == [200] * 20
        await until(lambda: server.open_connections <= 5)
    await until(lambda: server.open_connections == 0)


async def test_waiting_for_a_connection_counts_against_the_time(server: Peer) -> None:
    async with Upstream(base_url=server.url(""), max_connections=1) as upstream:
        hanging = asyncio.create_task(upstream.get("/hang"))
        await server.arrived.wait()
        with pytest.raises(UpstreamTimeout, match="2 calls in flight on 1 connections"):
            await upstream.get("/ok", timeout=0.05)
        hanging.cancel()
        await asyncio.wait([hanging])
        assert (await upstream.get("/ok")).status_code == 200


async def test_gather_keeps_the_answers_beside_the_failures(
    upstream: Upstream, server: Peer
) -> None:
    started_at = time.monotonic()
    results = await upstream.gather(
        {
            "ok": "/ok",
            "posted": upstream.build_request("POST", "/items", json={"n": 1}),
            "late": "/hang",
            "garbage": "/garbage",
            "sad": "/503",
            "refused": f"http://127.0.0.1:{free_port()}/",
        },
        timeout=0.3,
    )
    assert time.monotonic() - started_at < 1.0
    assert not results.is_complete
    assert list(results.values) == ["ok", "posted"]
    assert {name: type(error) for name, error in results.errors.items()} == {
        "late": UpstreamTimeout,
        "garbage": UpstreamFailed,
        "sad": UpstreamFailed,
        "refused": UpstreamFailed,
    }
    assert results.json() == {"ok": {"path": "/ok"}, "posted": {"path": "/items"}}


async def test_gather_of_urls_is_named_by_them(upstream: Upstream) -> None:
    results = await upstream.gather("/a", "/b")
    assert results.is_complete
    assert results.json() == {"/a": {"path": "/a"}, "/b": {"path": "/b"}}


async def test_gather_of_nothing_is_complete(upstream: Upstream) -> None:
    assert (await upstream.gather({})).is_complete
    assert (await upstream.gather()).values == {}


async def test_body_that_is_not_json_is_named(upstream: Upstream) -> None:
    results = await upstream.gather({"a": "/text"})
    with pytest.raises(UpstreamFailed, match=r"answered 'a' with 2 bytes \(no content-type\)"):
        results.json()


async def test_too_few_successes_raise_what_happened(upstream: Upstream) -> None:
    with pytest.raises(UpstreamTimeout, match="0 of 2 calls"):
        await upstream.gather("/hang", "/drip", timeout=0.1)
    with pytest.raises(UpstreamFailed, match=r"1 of 3 calls .* 2 were needed; /hang: "):
        await upstream.gather("/ok", "/hang", "/garbage", timeout=0.1, min_success=2)
    nothing = await upstream.gather("/garbage", min_success=0)
    assert list(nothing.errors) == ["/garbage"]


async def test_cancelled_gather_leaves_no_call_behind(upstream: Upstream, server: Peer) -> None:
    gathering = asyncio.create_task(upstream.gather("/hang", "/drip", "/hang?2"))
    await until(lambda: len(server.requests) == 3)
    gathering.cancel()
    await asyncio.wait([gathering])
    assert gathering.cancelled()
    await until(lambda: server.open_connections == 0)
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("ticks", range(0, 40, 3))
async def test_gather_cancelled_at_any_tick_is_leak_free(
    upstream: Upstream, server: Peer, ticks: int
) -> None:
    gathering = asyncio.create_task(upstream.gather("/ok", "/hang"))
    for _ in range(ticks):
        await asyncio.sleep(0)
    gathering.cancel()
    await asyncio.wait([gathering])
    assert gathering.cancelled()
    assert (await upstream.get("/ok")).status_code == 200


async def test_closed_upstream_says_that_it_is_not_open(server: Peer) -> None:
    upstream = Upstream(name="users", base_url=server.url(""))
    with pytest.raises(NotStarted, match="'users' is not open"):
        await upstream.get("/ok")
    with pytest.raises(NotStarted):
        await upstream.gather({"a": httpx2.Request("GET", server.url("/ok"))})
    async with upstream:
        await upstream.open()
        await upstream.get("/ok")
    await upstream.close()
    with pytest.raises(NotStarted):
        await upstream.get("/ok")


async def test_call_in_flight_when_the_client_closes_fails_as_an_upstream(server: Peer) -> None:
    upstream = Upstream(name="users", base_url=server.url(""))
    await upstream.open()
    calling = asyncio.create_task(upstream.get("/hang"))
    await server.arrived.wait()
    await upstream.close()
    with pytest.raises(UpstreamFailed, match="'users'"):
        await calling


async def test_counts_tell_the_late_from_the_failed(upstream: Upstream) -> None:
    with pytest.raises(UpstreamTimeout):
        await upstream.get("/hang", timeout=0.05)
    with pytest.raises(UpstreamFailed):
        await upstream.get("/garbage")
    with pytest.raises(UpstreamFailed):
        await upstream.get("/503", raise_for_status=True)
    counts = upstream.statistics()
    assert (counts.calls, counts.timed_out, counts.failed, counts.in_flight) == (3, 1, 2, 0)


async def test_opening_does_not_block_the_loop() -> None:
    """Building the TLS settings takes tens of milliseconds of CPU."""
    upstream = Upstream()
    turns = 0
    opening = asyncio.create_task(upstream.open())
    while not opening.done():
        await asyncio.sleep(0)
        turns += 1
    await upstream.close()
    assert turns > 10


async def test_unusable_arguments_are_named(upstream: Upstream) -> None:
    for settings in ({"timeout": 0}, {"timeout": float("inf")}, {"max_connections": 0}):
        with pytest.raises(InvalidSetting, match=next(iter(settings))):
            Upstream(**settings)  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="url"):
        await upstream.get("ftp://127.0.0.1/")
    with pytest.raises(InvalidSetting, match="url"):
        await upstream.get("http://127.0.0.1:port/")
    with pytest.raises(InvalidSetting, match="min_success"):
        await upstream.gather("/a", min_success=2)
    with pytest.raises(InvalidSetting, match="timeout"):
        await upstream.get("/ok", timeout=-1.0)
    async with Upstream() as without_base:
        with pytest.raises(InvalidSetting, match="url='/ok'"):
            await without_base.get("/ok")
