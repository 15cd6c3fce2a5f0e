"""A hub behind real servers and real sockets."""

import asyncio
import gc
import json
import os
import random
import socket
import time
from typing import Any

import pytest
import websockets
from fastapi import FastAPI, WebSocket
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

import stormproof
from stormproof._core.lifecycle import Lifecycle
from stormproof.stream import Hub
from stormproof.stream._subscriber import Subscriber
from tests.harness import Connection, Stream, encode_request, request, until

from .serving import WithLifecycle, reasons, serving


def app_of(hub: Hub, **options: Any) -> FastAPI:
    app = FastAPI()

    @app.api_route("/events", methods=["GET", "HEAD"])
    async def events() -> Any:
        return hub.response(["t"], **options)

    def topics(scope: Any) -> list[str]:
        return [topic for topic in scope["path"].rpartition("/")[2].split(",") if topic]

    app.mount("/sse", hub.asgi(topics, **options))

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        await hub.websocket(websocket, ["t"], **options)

    return app


@pytest.fixture(params=["httptools", "h11"])
def http(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def next_data(stream: Stream) -> str | None:
    while (event := await stream.next_event()).data is None:
        pass
    return event.data


async def test_events_come_behind_a_route_and_mounted_and_resume(http: str) -> None:
    hub = Hub()
    async with hub, serving(app_of(hub), http=http) as port:
        async with Stream(port, "/events") as route, Stream(port, "/sse/t,u") as mounted:
            for stream in (route, mounted):
                assert stream.status == 200
                assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
                assert stream.headers["cache-control"] == "no-store, no-transform"
                assert stream.headers["x-accel-buffering"] == "no"
                opening = await stream.next_event()
                assert opening.id == hub.statistics().position
                assert 1_000 <= (opening.retry or 0) <= 5_000
            position = await hub.publish("t", {"n": 1}, event="created")
            for stream in (route, mounted):
                event = await stream.next_event()
                assert (event.event, event.data, event.id) == ("created", '{"n":1}', str(position))
        await hub.publish("t", "missed")
        headers = {"Last-Event-ID": str(position)}
        async with Stream(port, "/events", headers=headers) as stream:
            assert await next_data(stream) == "missed"
        async with Stream(port, f"/sse/t?last_event_id={position}") as stream:
            assert await next_data(stream) == "missed"
            await hub.publish("t", "live")
            assert await next_data(stream) == "live"


async def test_answers_that_are_no_stream() -> None:
    hub = Hub()
    async with serving(app_of(hub)) as port:
        head = await request(port, "HEAD", "/events")
        assert (head.status, head.ended, head.body) == (200, "complete", b"")
        assert head.headers["content-type"].startswith("text/event-stream")
        assert (await request(port, "HEAD", "/sse/t")).status == 200
        assert (await request(port, "POST", "/sse/t")).status == 405
        assert (await request(port, "GET", "/sse/")).status == 404


@pytest.mark.parametrize("is_abrupt", [True, False])
async def test_client_that_leaves_is_noticed_at_once(http: str, is_abrupt: bool) -> None:
    lifecycle, hub = Lifecycle(), Hub()
    app = WithLifecycle(app_of(hub), lifecycle)
    with reasons(lifecycle) as seen:
        async with serving(app, http=http) as port:
            async with Stream(port, "/events") as stream:
                await stream.next_event()
                left_at = time.monotonic()
                if is_abrupt:
                    stream.abort()
            await until(lambda: not lifecycle.streams)
            assert time.monotonic() - left_at < 0.5
    assert seen == ["left"]


@pytest.mark.parametrize("path", ["/events", "/sse/t"])
async def test_below_middleware_that_sends_in_its_own_way(path: str) -> None:
    """BaseHTTPMiddleware's send waits for a reader, GZip's changes the message."""
    hub = Hub(queue_frames=1000)
    app = app_of(hub)
    app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, go_on: go_on(request))
    app.add_middleware(GZipMiddleware, minimum_size=1)
    async with hub, serving(app) as port:
        async with Stream(port, path) as one, Stream(port, path) as two:
            await one.next_event()
            await two.next_event()
            for number in range(50):
                await hub.publish("t", str(number))
                if number % 7 == 0:
                    await asyncio.sleep(0)
            for stream in (one, two):
                for number in range(50):
                    assert await next_data(stream) == str(number)
        await until(lambda: hub.statistics().subscribers == 0)


async def test_stalled_reader_is_bounded_and_told_and_others_do_not_wait(http: str) -> None:
    hub = Hub(queue_bytes=10_000)
    async with hub, serving(app_of(hub), http=http) as port, Stream(port, "/sse/t") as quick:
        await quick.next_event()
        slow = Stream(port, "/events", receive_buffer_bytes=4096)
        async with slow:
            published = 0
            while hub.statistics().dropped < 20:
                await hub.publish("t", "x" * 4000)
                published += 1
                assert await next_data(quick)
            ids: list[str] = []
            told = None
            while told is None or len(ids) + told["dropped"] < published:
                event = await slow.next_event()
                if event.event == "gap":
                    told = json.loads(str(event.data))
                elif event.data is not None:
                    ids.append(str(event.id))
            assert told["dropped"] == hub.statistics().dropped
            await hub.publish("t", "live")
            assert await next_data(slow) == "live"


async def test_websocket_has_the_same_events_and_resumes() -> None:
    hub = Hub()
    async with hub, serving(app_of(hub)) as port:
        url = f"ws://127.0.0.1:{port}/ws"
        async with websockets.connect(url) as client:
            opening = json.loads(await client.recv())
            assert opening["id"] == hub.statistics().position
            position = await hub.publish("t", {"n": 1}, event="created")
            await client.send("nobody listens")
            event = json.loads(await client.recv())
            assert event == {"id": str(position), "event": "created", "data": '{"n":1}'}
        await until(lambda: hub.statistics().subscribers == 0)
        await hub.publish("t", "missed")
        async with websockets.connect(f"{url}?last_event_id={position}") as client:
            await client.recv()
            assert json.loads(await client.recv())["data"] == "missed"


async def test_websocket_ends_with_a_code() -> None:
    hub = Hub(max_subscribers=1)
    app = app_of(hub, expires_at=time.time() - 1)
    async with hub, serving(app) as port:
        async with websockets.connect(f"ws://127.0.0.1:{port}/ws") as client:
            texts = [json.loads(await client.recv()) for _ in range(2)]
            with pytest.raises(websockets.ConnectionClosedError):
                await client.recv()
        assert [text.get("event") for text in texts] == [None, "expired"]
        assert client.close_code == 1008


async def test_installed_hub_drains_its_streams() -> None:
    hub = Hub()
    app = app_of(hub)
    lifecycle = stormproof.install(app, hub, prestop=0.0, grace=5.0)
    opened = app.router.lifespan_context(app)
    async with opened, serving(app) as port, Stream(port, "/sse/t") as stream:
        await stream.next_event()
        await until(lambda: lifecycle.streams)
        await hub.publish("t", "last")
        assert await next_data(stream) == "last"
        for place in tuple(lifecycle.streams):
            place.leave.set()
        assert await stream.finish() == "complete"
        assert stream.events[-1].event == "drain"
    assert len(asyncio.all_tasks()) == 1


async def test_two_hundred_that_leave_at_random_leave_nothing_behind() -> None:
    hub, chance = Hub(), random.Random(1)
    paths = ["/events", "/sse/t"]

    async def visit(port: int, number: int) -> None:
        async with Stream(port, paths[number % 2]) as stream:
            for _ in range(chance.randrange(5)):
                await next_data(stream)
            if chance.random() < 0.5:
                stream.abort()

    async with serving(app_of(hub)) as port:
        await request(port, "HEAD", "/events")
        await asyncio.sleep(0)
        tasks, descriptors = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
        visits = [asyncio.create_task(visit(port, number)) for number in range(200)]
        while not all(one.done() for one in visits):
            await hub.publish("t", "x")
            await asyncio.sleep(0.001)
        await asyncio.gather(*visits)
        del visits
        await until(lambda: hub.statistics().subscribers == 0)
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        await until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
        gc.collect()
        kept = [
            one for one in gc.get_objects() if isinstance(one, (Subscriber, RequestResponseCycle))
        ]
        assert not kept


async def test_stalled_reader_that_resets_is_noticed() -> None:
    lifecycle, hub = Lifecycle(), Hub()
    with reasons(lifecycle) as seen:
        async with hub, serving(WithLifecycle(app_of(hub), lifecycle)) as port:
            connection = await Connection.open(port, receive_buffer_bytes=4096)
            await connection.send(encode_request("GET", "/events"))
            await until(lambda: lifecycle.streams)
            while not hub.statistics().dropped:
                await hub.publish("t", "x" * 60_000)
            connection.abort()
            await until(lambda: seen)
    assert seen == ["left"]


async def test_stalled_reader_costs_little_before_the_policy_acts(http: str) -> None:
    """By default the kernel alone takes 4 MB; the policy is to close, and the line is reset."""
    lifecycle, hub = Lifecycle(), Hub(policy="close")
    with reasons(lifecycle) as seen:
        server = serving(WithLifecycle(app_of(hub), lifecycle), http=http)
        async with hub, server as port, Stream(port, "/events") as stream:
            await stream.next_event()
            published = 0
            while not seen:
                await hub.publish("t", "x" * 1000)
                published += 1000
                await asyncio.sleep(0)
            assert await stream.finish() == "reset"
    assert seen == ["stalled"]
    assert published <= 512 * 1024  # 170 kB with the buffers of an idle machine


async def test_peer_that_vanishes_is_given_up_as_soon_as_one_that_stalls() -> None:
    hub = Hub(send_timeout=7.0)
    async with hub, serving(app_of(hub)) as port, Stream(port, "/events") as stream:
        await stream.next_event()
        gc.collect()  # what earlier tests have left in cycles
        (cycle,) = (one for one in gc.get_objects() if isinstance(one, RequestResponseCycle))
        line: Any = cycle.transport.get_extra_info("socket")
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000


@pytest.mark.storm
async def test_peer_that_vanishes_is_noticed_by_the_next_heartbeat() -> None:
    """The heartbeat finds room in the kernel's buffer, so no send ever waits or fails."""
    lifecycle, hub = Lifecycle(), Hub(heartbeat=0.5, send_timeout=1.0)
    with reasons(lifecycle) as seen:
        app = WithLifecycle(app_of(hub), lifecycle)
        async with hub, serving(app) as port, Stream(port, "/events") as stream:
            await stream.next_event()
            stream.vanish()
            # Without a limit of its own the kernel would repeat it for a quarter of an hour.
            await until(lambda: seen, timeout=60)
    assert seen == ["left"]
