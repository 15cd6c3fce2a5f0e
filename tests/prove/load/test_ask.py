"""One request: its row tells exactly how it ended."""

import asyncio
import dataclasses
import json
import socket

import pytest

from stormproof.prove.load import KeptConnection, Shot, ask
from tests.harness import free_port, until

from .servers import (
    GET,
    OK,
    new_ledger,
    read_request,
    reset,
    says,
    scripted_server,
    serve_nothing,
    serve_ok,
)

HALF = OK[:-1]
CHUNK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"


async def test_whole_answer_is_complete_and_timed() -> None:
    ledger, seen = new_ledger(), bytearray()
    first: list[float] = []
    async with scripted_server(serve_ok) as port:
        row = await ask(
            port,
            GET,
            timeout=5.0,
            ledger=ledger,
            group="g",
            on_first_byte=lambda: first.append(ledger.now()),
            on_body=seen.extend,
        )
    assert (row.ended, row.status, row.size_bytes, bytes(seen)) == ("complete", 200, 2, b"{}")
    assert (row.route, row.group, row.is_reused, row.is_good) == ("GET /", "g", False, True)
    assert row.headers == {"content-type": "application/json"}
    assert row.sent_at is not None
    assert row.first_byte_at is not None
    assert row.last_byte_at is not None
    assert row.intended_at <= row.sent_at <= row.first_byte_at <= row.last_byte_at
    assert len(first) == 1
    assert ledger.rows == [row]


@pytest.mark.parametrize(
    ("answer", "then", "ended"),
    [
        (b"", "close", "reset"),
        (b"", "reset", "reset"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", "close", "reset"),
        (HALF, "close", "truncated"),
        (HALF, "reset", "truncated"),
        (b"HTTP/1.1 200 O", "close", "truncated"),
        (CHUNK, "close", "truncated"),
        (CHUNK, "reset", "truncated"),
        (CHUNK + b"0\r\n\r\n", "close", "complete"),
        (OK, "reset", "complete"),
        (b"HTTP/1.1 200 OK\r\n\r\nall", "close", "complete"),
        (b"HTTP/1.1 200 OK\r\n\r\nall", "reset", "truncated"),
        (b"220 smtp.example.com\r\n", "stay", "truncated"),
        (HALF, "stay", "timeout"),
        (b"", "stay", "timeout"),
    ],
)
async def test_end_is_told_as_it_was(answer: bytes, then: str, ended: str) -> None:
    ledger = new_ledger()
    async with scripted_server(says(answer, then=then)) as port:
        timeout = 0.1 if ended == "timeout" else 5.0
        row = await ask(port, GET, timeout=timeout, ledger=ledger, group="g", keep_alive=True)
    assert row.ended == ended
    assert ledger.rows == [row]


async def test_nobody_listening_is_refused() -> None:
    row = await ask(free_port(), GET, timeout=1.0, ledger=new_ledger(), group="g")
    assert (row.ended, row.sent_at, row.status) == ("refused", None, 0)


async def test_connection_that_is_not_accepted_is_a_timeout() -> None:
    """A listener with a full backlog: the kernel drops the SYN and says nothing."""
    with socket.socket() as listener, socket.socket() as one, socket.socket() as two:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (one, two):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        port = listener.getsockname()[1]
        row = await ask(port, GET, timeout=0.2, ledger=new_ledger(), group="g")
    assert (row.ended, row.sent_at) == ("timeout", None)


async def test_cancelled_question_is_left_and_its_socket_closed() -> None:
    ledger, gone = new_ledger(), asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        began.set()
        assert await reader.read() == b""
        gone.set()

    began = asyncio.Event()
    async with scripted_server(script) as port:
        asking = asyncio.create_task(ask(port, GET, timeout=5.0, ledger=ledger, group="g"))
        await began.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        async with asyncio.timeout(2.0):
            await gone.wait()
    assert [row.ended for row in ledger.rows] == ["left"]


async def test_number_and_headers_are_sent() -> None:
    ledger = new_ledger()
    heads: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await read_request(reader))
        writer.write(OK)

    shot = Shot(
        route="POST /items",
        method="POST",
        url="/items?q=a b#c",
        headers={"Host": "example.com", "X-Key": "1", "content-length": "9"},
        body=b'{"a": 1}',
    )
    async with scripted_server(script) as port:
        row = await ask(port, shot, timeout=5.0, ledger=ledger, group="g")
    lines = heads[0].split(b"\r\n")
    assert lines[0] == b"POST /items?q=a%20b HTTP/1.1"
    assert b"X-Stormproof-Id: %d" % row.id in lines
    assert b"Host: example.com" in lines
    assert b"Content-Type: application/json" in lines
    assert b"Content-Length: 8" in lines
    assert b"Connection: close" in lines
    assert lines[-1] == b'{"a": 1}'
    assert sum(line.lower().startswith(b"content-length") for line in lines) == 1


async def test_early_answer_to_a_large_body_is_read() -> None:
    """A 413 that comes before the body was taken, on a connection that is reset after it."""
    ledger = new_ledger()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()

    shot = Shot(route="POST /", method="POST", url="/", body=b"x" * 20_000_000)
    async with scripted_server(script) as port:
        row = await ask(port, shot, timeout=5.0, ledger=ledger, group="g")
    assert (row.ended, row.status) == ("complete", 413)


async def test_kept_connection_carries_several_requests_and_sees_its_end() -> None:
    ledger = new_ledger()
    end = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await read_request(reader)
            writer.write(OK)
        await end.wait()

    async with (
        scripted_server(script) as port,
        KeptConnection(port, ledger=ledger, group="g") as kept,
    ):
        rows = [await kept.ask(GET, timeout=5.0, group="g") for _ in range(2)]
        assert not kept.is_closed_by_server
        assert not await kept.wait_closed(0.01)
        end.set()
        assert await kept.wait_closed(2.0)
        assert kept.is_closed_by_server
        late = await kept.ask(GET, timeout=5.0, group="late")
    assert [row.is_reused for row in rows] == [False, True]
    assert {row.connection for row in [*rows, late]} == {kept.number}
    assert kept.closed_at is not None
    assert (late.ended, late.is_reused, late.sent_at) == ("reset", True, None)


async def test_request_on_a_connection_that_is_reset_under_it_is_a_reused_reset() -> None:
    ledger = new_ledger()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await read_request(reader)
        reset(writer)

    async with (
        scripted_server(script) as port,
        KeptConnection(port, ledger=ledger, group="g") as kept,
    ):
        await kept.ask(GET, timeout=5.0, group="g")
        row = await kept.ask(GET, timeout=5.0, group="g")
    assert (row.ended, row.is_reused) == ("reset", True)
    assert row.sent_at is not None


async def test_connection_that_says_close_is_closed_by_the_server() -> None:
    answer = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with (
        scripted_server(says(answer, then="stay")) as port,
        KeptConnection(port, ledger=new_ledger(), group="g") as kept,
    ):
        row = await kept.ask(GET, timeout=5.0, group="g")
        assert row.headers["connection"] == "close"
        assert kept.is_closed_by_server


async def test_timed_out_request_takes_its_connection_with_it() -> None:
    async with (
        scripted_server(serve_nothing) as port,
        KeptConnection(port, ledger=new_ledger(), group="g") as kept,
    ):
        row = await kept.ask(GET, timeout=0.05, group="g")
        await until(lambda: kept.closed_at is not None)
        assert row.ended == "timeout"
        assert not kept.is_closed_by_server


async def test_every_row_can_be_written_to_a_file() -> None:
    ledger = new_ledger()
    async with scripted_server(says(b"HTTP/1.1 204 No Content\r\n\r\n")) as port:
        await ask(port, GET, timeout=5.0, ledger=ledger, group="g")
    await ask(free_port(), GET, timeout=5.0, ledger=ledger, group="g")
    written = json.loads(json.dumps([dataclasses.asdict(row) for row in ledger.rows]))
    assert [row["headers"] for row in written] == [{}, {}]
