"""The aiohttp transport says what httpx2's own says; the suite in test_upstream.py runs on both."""

import asyncio
import gzip
from collections.abc import AsyncIterator

import httpx2
import pytest

from stormproof.errors import UpstreamFailed
from stormproof.upstream import Upstream
from stormproof.upstream._aiohttp import AiohttpTransport
from tests.harness import free_port, scripted_server

from .servers import Peer


@pytest.fixture
async def client(server: Peer) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(
        base_url=server.url(""), transport=AiohttpTransport(), timeout=None
    ) as opened:
        yield opened


async def test_request_goes_out_as_httpx2_built_it(
    client: httpx2.AsyncClient, server: Peer
) -> None:
    answer = await client.post("/a%2Fb?q=%20x", json={"n": 1}, headers={"x-mine": "1"})
    assert answer.json() == {"path": "/a%2Fb"}
    head = server.requests[0]
    assert head.startswith("POST /a%2Fb?q=%20x HTTP/1.1\r\n")
    names = [line.split(":")[0].lower() for line in head.splitlines()[1:] if line]
    assert len(names) == len(set(names))
    assert {"host", "x-mine", "content-type", "content-length"} <= set(names)


async def test_body_that_comes_in_pieces_is_sent() -> None:
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        bodies.append(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No\r\n\r\n")

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    async with (
        scripted_server(serve) as port,
        Upstream(transport=AiohttpTransport()) as upstream,
    ):
        answer = await upstream.post(f"http://127.0.0.1:{port}/", content=pieces())
        assert answer.status_code == 204
    assert bodies == [b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"]


async def test_packed_answer_is_unpacked_once() -> None:
    body = gzip.compress(b"hello " * 100)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(body) + body)

    async with (
        scripted_server(serve) as port,
        Upstream(transport=AiohttpTransport()) as upstream,
    ):
        answer = await upstream.get(f"http://127.0.0.1:{port}/")
        assert answer.text == "hello " * 100


async def test_errors_are_those_of_httpx2(client: httpx2.AsyncClient) -> None:
    with pytest.raises(httpx2.ConnectError):
        await client.get(f"http://127.0.0.1:{free_port()}/")
    for path in ("/closed", "/garbage"):
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get(path)
    with pytest.raises(httpx2.RequestError):
        await client.get("/reset")
    with pytest.raises(httpx2.ReadTimeout):
        await client.get("/hang", timeout=0.05)


async def test_closed_upstream_is_not_opened_again_by_its_transport(server: Peer) -> None:
    upstream = Upstream(base_url=server.url(""), transport=AiohttpTransport())
    async with upstream:
        await upstream.get("/ok")
    async with upstream:
        with pytest.raises(UpstreamFailed, match="transport is closed"):
            await upstream.get("/ok")
