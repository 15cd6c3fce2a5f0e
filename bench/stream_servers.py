"""The servers that `bench/stream.py` compares: each pushes the same event to all its clients.

`GET /events` subscribes, `GET /publish` sends one event to all, `GET /cpu` returns the seconds
of CPU this process has used, `GET /ping` is the endpoint that must not be stalled. The data of an
event is the time at which it was published.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import EventSourceResponse as SseStarletteResponse

import stormproof
from stormproof import Hub
from stormproof._core.events import StreamEnded

PADDING = "x" * 80


def event_data() -> str:
    """Return about 100 bytes that say when they were made."""
    return f"{time.monotonic():.6f} {PADDING}"


class Raw(asyncio.Protocol):
    """The least a server can do: a list of transports, and one write to each."""

    clients: set[Any] = set()  # noqa: RUF012 - one server a process
    number = 0

    def connection_made(self, transport: Any) -> None:
        """Remember the transport."""
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self.clients.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        """Answer by the path alone."""
        path = data.split(b" ", 2)[1]
        if path == b"/events":
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                b"transfer-encoding: chunked\r\n\r\n"
            )
            self.clients.add(self.transport)
            return
        if path == b"/publish":
            Raw.number += 1
            event = f"id: 0123abcd-{Raw.number}\ndata: {event_data()}\n\n".encode()
            for client in self.clients:
                # What a server knows per client: that it is not closing, and the chunk's frame.
                if not client.is_closing():
                    client.write(b"".join([b"%x\r\n" % len(event), event, b"\r\n"]))
        body = f"{time.process_time():.6f}".encode()
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


def with_queues(
    make: Callable[[FastAPI, Callable[[], AsyncIterator[str]]], None],
) -> Any:
    """Return an app with a queue for each client, as it is usually written."""
    app = FastAPI()
    queues: set[asyncio.Queue[str]] = set()

    async def events() -> AsyncIterator[str]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        queues.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            queues.discard(queue)

    async def publish() -> None:
        data = event_data()
        for queue in queues:
            queue.put_nowait(data)

    make(app, events)
    return with_controls(app, publish)


def with_controls(app: FastAPI, publish: Callable[[], Any]) -> Any:
    """Put what the bench asks for in front of the app, where it costs next to nothing."""
    if isinstance(app, FastAPI):

        @app.get("/ping", response_class=PlainTextResponse)
        async def ping() -> str:
            return ""

    def controls(scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if scope.get("path") in ("/publish", "/cpu"):
            return control(scope["path"], send)
        return app(scope, receive, send)

    async def control(path: str, send: Any) -> None:
        if path == "/publish":
            await publish()
        body = f"{time.process_time():.6f}".encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return controls


def seed() -> Any:
    """Return the seed's way: a StreamingResponse over a generator that writes `data:`."""

    def make(app: FastAPI, events: Callable[[], AsyncIterator[str]]) -> None:
        async def generate() -> AsyncIterator[str]:
            async for data in events():
                yield f"data: {data}\n\n"

        @app.get("/events")
        async def stream() -> StreamingResponse:
            return StreamingResponse(generate(), media_type="text/event-stream")

    return with_queues(make)


def sse_starlette() -> Any:
    """Return sse-starlette's response over the same queues."""

    def make(app: FastAPI, events: Callable[[], AsyncIterator[str]]) -> None:
        @app.get("/events")
        async def stream() -> SseStarletteResponse:
            return SseStarletteResponse({"data": data} async for data in events())

    return with_queues(make)


def native() -> Any:
    """Return FastAPI's own server-sent events over the same queues."""

    def make(app: FastAPI, events: Callable[[], AsyncIterator[str]]) -> None:
        @app.get("/events", response_class=EventSourceResponse)
        async def stream() -> AsyncIterator[ServerSentEvent]:
            async for data in events():
                yield ServerSentEvent(raw_data=data)

    return with_queues(make)


def hub(*, is_mounted: bool, is_installed: bool = False) -> tuple[FastAPI, Hub]:
    """Return an app with a hub, mounted or behind a route."""
    app = FastAPI()
    one = Hub()
    left: list[float] = []
    if is_installed:
        lifecycle = stormproof.install(app, one)
        lifecycle.events.subscribe(
            lambda event: left.append(time.monotonic()) if isinstance(event, StreamEnded) else None
        )
    if is_mounted:
        app.mount("/events", one.asgi(["news"]))
    else:

        @app.get("/events")
        async def stream() -> Any:
            return one.response(["news"])

    @app.get("/left")
    async def when_left() -> list[float]:
        return left

    @app.get("/push")
    async def push(size: int) -> dict[str, int]:
        await one.publish("news", "x" * size)
        await asyncio.sleep(0)  # the reader's turn
        return {"dropped": one.statistics().dropped}

    return app, one


def controlled(app: FastAPI, one: Hub) -> Any:
    """Put the bench's controls in front of an app with a hub."""

    async def publish() -> None:
        await one.publish("news", event_data())

    return with_controls(app, publish)


def bare() -> Any:
    """Return a hub that is the whole ASGI app, with nothing around it."""
    one = Hub()
    return controlled(one.asgi(["news"]), one)  # type: ignore[arg-type]


served, _ = hub(is_mounted=False, is_installed=True)
"""For `stormproof serve`."""

APPS: dict[str, Callable[[], Any]] = {
    "hub bare": bare,
    "hub mounted": lambda: controlled(*hub(is_mounted=True)),
    "hub route": lambda: controlled(*hub(is_mounted=False)),
    "hub installed": lambda: controlled(*hub(is_mounted=False, is_installed=True)),
    "seed": seed,
    "sse-starlette": sse_starlette,
    "native": native,
}


async def serve_raw(port: int) -> None:
    """Serve with `Raw` alone."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Raw, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def main() -> None:
    """Serve the app that is named first, on the port that is named second."""
    name, port = sys.argv[1], int(sys.argv[2])
    if name == "raw":
        uvloop.run(serve_raw(port))
    else:
        uvicorn.run(
            APPS[name](),
            port=port,
            backlog=4096,
            access_log=False,
            log_level="error",
            loop="uvloop",
            http="httptools",
            interface="asgi3",
        )


if __name__ == "__main__":
    main()
