"""Upstreams: loopback HTTP services whose delay and errors are set from outside with PUT."""

import asyncio
import json
import random
import re
import socket
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

MAX_BODY_BYTES = 10_000
MAX_DELAY = 3600.0


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How one upstream answers: after `delay` seconds, wrongly at `error_rate`, or never.

    Args:
        delay: seconds before each answer, 0 to 3600.
        error_rate: the share of answers that are errors, 0 to 1.
        status: the status code of such an error, 400 to 599.
        hang: do not answer at all; the request ends when the client leaves or at close.

    Raises:
        ValueError: an argument is of the wrong type or out of its range.

    versionadded: 0.1
    """

    delay: float = 0.0
    error_rate: float = 0.0
    status: int = 500
    hang: bool = False

    def __post_init__(self) -> None:
        if not _is_number(self.delay, 0, MAX_DELAY):
            raise ValueError(f"delay must be seconds from 0 to 3600, not {self.delay!r}")
        if not _is_number(self.error_rate, 0, 1):
            raise ValueError(f"error_rate must be a share from 0 to 1, not {self.error_rate!r}")
        if not isinstance(self.status, int) or not 400 <= self.status <= 599:
            raise ValueError(f"status must be an error code from 400 to 599, not {self.status!r}")
        if not isinstance(self.hang, bool):
            raise ValueError(f"hang must be true or false, not {self.hang!r}")


class Upstreams:
    """Some HTTP upstreams on one port of 127.0.0.1, in the running loop.

    `GET /{n}/data` answers `{"upstream": n, "served": k}`, where k counts its good answers.
    `PUT /{n}` takes the fields of `Behaviour` as JSON, replaces the upstream's behaviour (what
    is left out is as at the start, so `{}` heals) and answers with it.
    Requests already waiting keep the behaviour they came with.
    Which answers are errors is drawn from a fixed seed: the same order in each run.

    Args:
        count: how many upstreams, 1 to 99.

    versionadded: 0.1
    """

    def __init__(self, count: int = 3) -> None:
        if not 1 <= count <= 99:
            raise ValueError(f"count must be from 1 to 99, not {count}")
        self._upstreams = {n: _Upstream(n) for n in range(1, count + 1)}
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """The address of all of them, `http://127.0.0.1:PORT`; PUT goes to `{url}/{n}`.

        Raises:
            RuntimeError: the upstreams are not started.
        """
        if self._server is None:
            raise RuntimeError("the upstreams have no address: not started; await start()")
        return f"http://127.0.0.1:{self._server.port}"

    @property
    def urls(self) -> list[str]:
        """The addresses of their data, `http://127.0.0.1:PORT/1/data` and so on."""
        return [f"{self.url}/{n}/data" for n in self._upstreams]

    async def start(self) -> None:
        """Listen on a free port; behaviours set before a restart are kept.

        Raises:
            RuntimeError: the upstreams are started already.
        """
        if self._server is not None:
            raise RuntimeError(f"the upstreams are started already, at {self.url}")
        server = _Server(self._app)
        await server.open()
        self._server = server

    async def close(self) -> None:
        """Stop listening and cut every connection, also one whose request hangs: about 0.1 s.

        Safe to call twice. Cancelled while waiting: everything is cut already.
        """
        if self._server is None:
            return
        server, self._server = self._server, None
        await server.shutdown()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = re.fullmatch(r"/([0-9]{1,2})(/data)?", scope["path"])
        upstream = self._upstreams.get(int(match[1])) if match else None
        if match is None or upstream is None:
            return await _answer(send, 404, _problem(f"there is nothing at {scope['path']}"))
        allowed = "GET" if match[2] else "PUT"
        if scope["method"] != allowed:
            return await _answer(send, 405, _problem(f"use {allowed} here"), allow=allowed)
        if allowed == "GET":
            return await _give_data(upstream, receive, send)
        return await _put_behaviour(upstream, receive, send)


class _Upstream:
    """One upstream: its number, its behaviour, and how often it answered well."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.behaviour = Behaviour()
        self.served = 0
        self._draw = random.Random(number)

    def answer(self, behaviour: Behaviour) -> tuple[int, dict[str, object]]:
        """Decide the next answer: its status and its body."""
        if self._draw.random() < behaviour.error_rate:
            return behaviour.status, _problem(f"upstream {self.number} fails as it was told to")
        self.served += 1
        return 200, {"upstream": self.number, "served": self.served}


async def _give_data(upstream: _Upstream, receive: Receive, send: Send) -> None:
    behaviour = upstream.behaviour
    if behaviour.hang:
        # No end of its own, on purpose: the client leaves, or close() cuts the connection.
        return await _disconnected(receive)
    if behaviour.delay:
        try:
            async with asyncio.timeout(behaviour.delay):
                return await _disconnected(receive)
        except TimeoutError:
            pass
    status, body = upstream.answer(behaviour)
    return await _answer(send, status, body)


async def _put_behaviour(upstream: _Upstream, receive: Receive, send: Send) -> None:
    try:
        upstream.behaviour = _parse(await _read_body(receive))
    except ValueError as exc:
        return await _answer(send, 400, _problem(str(exc)))
    return await _answer(send, 200, asdict(upstream.behaviour))


def _parse(body: bytearray) -> Behaviour:
    known = [field.name for field in fields(Behaviour)]
    try:
        settings = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the body must be JSON") from None
    if not isinstance(settings, dict):
        raise ValueError("the body must be a JSON object")
    for name in settings:
        if name not in known:
            raise ValueError(f"{name!r} is not a setting; there are {', '.join(known)}")
    return Behaviour(**settings)


def _is_number(value: object, low: float, high: float) -> bool:
    # NaN, which Python's JSON lets in, is in no range.
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _problem(sentence: str) -> dict[str, object]:
    return {"error": sentence}


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_body(receive: Receive) -> bytearray:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise ValueError(f"the body must be at most {MAX_BODY_BYTES} bytes")
        if not message.get("more_body", False):
            return body


async def _answer(send: Send, status: int, body: dict[str, Any], *, allow: str = "") -> None:
    content = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
    ]
    if allow:
        headers.append((b"allow", allow.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


class _Server(uvicorn.Server):
    """uvicorn opened and shut by its owner: no signal handlers, no main loop, no task."""

    def __init__(self, app: Any) -> None:
        # log_level and access_log=False would change loggers of the whole process: leave both.
        config = uvicorn.Config(
            app,
            http=_QuietProtocol,
            ws="none",
            interface="asgi3",  # uvicorn takes a bound method for ASGI 2
            proxy_headers=False,
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        super().__init__(config)
        self.port = 0

    async def open(self) -> None:
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        # A bound socket: uvicorn answers a failed bind with sys.exit.
        # IPPROTO_TCP by name: asyncio turns Nagle off only where it reads it, and without that
        # each answer on a kept connection took 40 ms.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
            await self.startup([listener])
        except BaseException:
            listener.close()
            raise

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            # abort, not close: a client that reads nothing would keep a close waiting.
            connection.transport.abort()
        await super().shutdown(sockets)


class _QuietProtocol(HttpToolsProtocol):
    """HTTP without access lines, which would mix with those of the service in this process."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.access_log = False
