"""The raw client: it tells how an answer ended, and it can behave badly on purpose."""

import asyncio
import socket

import pytest

from tests.harness import (
    Connection,
    MalformedAnswer,
    encode_request,
    free_port,
    request,
    scripted_server,
    until,
)
from tests.harness.peer import Script
from tests.harness.wire import AnswerReader

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FIXED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"


def answering(raw: bytes) -> Script:
    """Return a script that reads a request head, says `raw`, and closes."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        await writer.drain()

    return script


@pytest.mark.parametrize(
    ("raw", "ended", "body"),
    [
        (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", "complete", b"hello"),
        (CHUNKED + b"5;ext=1\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", "complete", b"hello"),
        (CHUNKED + b"5\r\nhello\r\n", "truncated", b"hello"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n", "truncated", b"hello"),
        (CHUNKED + b"5\r\nhel", "truncated", b"hel"),
        (FIXED + b"hello", "complete", b"hello"),
        (FIXED + b"hel", "truncated", b"hel"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", "complete", b"hello"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + FIXED + b"hello", "complete", b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "complete", b""),
    ],
)
async def test_a_whole_body_is_told_from_a_truncated_one(
    raw: bytes, ended: str, body: bytes
) -> None:
    async with scripted_server(answering(raw)) as port:
        answer = await request(port, "GET", "/")
    assert (answer.ended, answer.body) == (ended, body)
    assert answer.status in (200, 204)


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 200 OK\r\nContent-"])
async def test_an_answer_without_a_whole_head_has_status_zero(raw: bytes) -> None:
    async with scripted_server(answering(raw)) as port:
        answer = await request(port, "GET", "/")
    assert (answer.status, answer.ended) == (0, "truncated")


@pytest.mark.parametrize("raw", [CHUNKED + b"xyz\r\n", CHUNKED + b"1\r\nab\r\n", b"SSH-2\r\n\r\n"])
async def test_bytes_that_are_no_answer_raise(raw: bytes) -> None:
    async with scripted_server(answering(raw)) as port:
        with pytest.raises(MalformedAnswer):
            await request(port, "GET", "/")


def test_an_answer_may_arrive_byte_by_byte() -> None:
    reader = AnswerReader()
    raw = CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nHTTP/1.1"
    body = b"".join(reader.feed(raw[i : i + 1]) for i in range(len(raw)))
    assert body == b"hello world"
    assert reader.is_complete
    assert reader.leftover == b"HTTP/1.1"


async def test_repeated_headers_are_joined_under_a_lower_case_name() -> None:
    raw = b"HTTP/1.1 200 OK\r\nVary: a\r\nVARY: b\r\nContent-Length: 0\r\n\r\n"
    async with scripted_server(answering(raw)) as port:
        answer = await request(port, "GET", "/")
    assert answer.headers == {"vary": "a, b", "content-length": "0"}


async def test_a_head_request_expects_no_body() -> None:
    async with scripted_server(answering(FIXED)) as port:
        answer = await request(port, "HEAD", "/")
    assert (answer.ended, answer.body) == ("complete", b"")


async def test_a_refused_connection_is_an_answer() -> None:
    answer = await request(free_port(), "GET", "/")
    assert (answer.status, answer.ended) == (0, "refused")


async def test_a_silent_server_is_timed_out() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with scripted_server(silent) as port:
        answer = await request(port, "GET", "/", timeout=0.05)
    assert answer.ended == "timed_out"
    assert 0.05 <= answer.elapsed < 2


async def test_a_reset_is_told_from_an_end() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        writer.write(FIXED)

    async with scripted_server(reset) as port:
        answer = await request(port, "GET", "/")
    assert answer.ended == "reset"


async def test_the_body_is_sent_with_its_length() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"content-length: 5\r\n" in head
        writer.write(FIXED + await reader.readexactly(5))

    async with scripted_server(echo) as port:
        answer = await request(port, "POST", "/", body=b"abcde")
    assert answer.body == b"abcde"


async def test_a_connection_is_used_again_until_the_server_closes_it() -> None:
    served = asyncio.Event()

    async def two_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(FIXED + b"hello")
        await served.wait()

    async with scripted_server(two_answers) as port, await Connection.open(port) as connection:
        first = await request(port, "GET", "/", connection=connection)
        second = await connection.request("GET", "/")
        assert (first.body, second.body) == (b"hello", b"hello")
        assert not connection.is_closed_by_server()
        served.set()
        await until(connection.is_closed_by_server, what="the server to close")
        late = await connection.request("GET", "/")
    assert late.status == 0
    assert late.ended in ("truncated", "reset")


async def test_half_a_request_can_be_sent() -> None:
    async with scripted_server(answering(FIXED + b"hello")) as port:
        raw = encode_request("GET", "/", headers={"X-A": "1"})
        async with await Connection.open(port) as connection:
            await connection.send(raw[:20])
            assert (await connection.read_answer(timeout=0.05)).ended == "timed_out"
            await connection.send(raw[20:])
            assert (await connection.read_answer()).body == b"hello"


async def test_an_aborted_connection_is_a_reset_for_the_server() -> None:
    seen: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        except ConnectionResetError as error:
            seen.set_result(error)

    async with scripted_server(watch) as port, await Connection.open(port) as connection:
        connection.abort()
        async with asyncio.timeout(5):
            assert isinstance(await seen, ConnectionResetError)


async def test_a_reading_task_ends_when_its_connection_is_aborted() -> None:
    async with scripted_server(answering(FIXED)) as port, await Connection.open(port) as connection:
        reading = asyncio.create_task(connection.read_answer())
        await asyncio.sleep(0)
        connection.abort()
        assert (await reading).ended == "reset"
