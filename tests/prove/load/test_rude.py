"""Rude clients: what they do to a server, and what they say it did."""

import asyncio
import re

import pytest

from stormproof.prove.load import (
    Shot,
    leave_early,
    read_slowly,
    send_half_body,
    send_half_head,
)
from tests.harness import free_port

from .servers import (
    GET,
    OK,
    new_ledger,
    read_request,
    reset,
    scripted_server,
    serve_nothing,
    serve_ok,
)

POST = Shot(route="POST /", method="POST", url="/", body=b"0123456789")
LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n"


async def test_half_a_head_that_is_borne_is_a_timeout() -> None:
    ledger = new_ledger()
    async with scripted_server(serve_nothing) as port:
        row = await send_half_head(port, seconds=0.1, ledger=ledger, group="g")
    assert (row.ended, row.route) == ("timeout", "(half a head)")
    assert re.fullmatch(r"open for \d\.\d s", row.note)
    assert ledger.rows == [row]


@pytest.mark.parametrize(
    ("answer", "ended", "note"),
    [
        (b"", "reset", r"closed by server after \d\.\d s"),
        (
            b"HTTP/1.1 408 Slow\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            "complete",
            r"answered 408 after \d\.\d s",
        ),
    ],
)
async def test_end_of_half_a_head_is_noted(answer: bytes, ended: str, note: str) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"X-Half: ")
        assert head.startswith(b"GET / HTTP/1.1\r\n")
        await asyncio.sleep(0.2)
        writer.write(answer)

    async with scripted_server(script) as port:
        row = await send_half_head(port, seconds=5.0, ledger=new_ledger(), group="g")
    assert row.ended == ended
    assert re.fullmatch(note, row.note)


async def test_half_a_body_is_sent_and_no_more() -> None:
    ledger, had = new_ledger(), bytearray()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            had.extend(data)

    async with scripted_server(script) as port:
        row = await send_half_body(port, POST, seconds=0.1, ledger=ledger, group="g")
        empty = await send_half_body(port, GET, seconds=0.1, ledger=ledger, group="g")
    assert (row.ended, empty.ended) == ("timeout", "timeout")
    assert b"Content-Length: 10\r\n" in had
    assert b"\r\n\r\n01234GET /" in had
    assert b"Content-Length: 1000\r\n" in had


async def test_early_answer_to_half_a_body_is_noted() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK.replace(b"200 OK", b"405 No"))
        await reader.read()

    async with scripted_server(script) as port:
        row = await send_half_body(port, POST, seconds=2.0, ledger=new_ledger(), group="g")
    assert (row.ended, row.status) == ("complete", 405)
    assert row.note.startswith("answered 405 after ")


async def test_slow_reader_fills_the_servers_buffers_and_holds_on() -> None:
    written = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await read_request(reader)
        writer.write(LARGE)
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
                written += 65536
        except ConnectionError:
            pass

    async with scripted_server(script) as port:
        row = await read_slowly(port, GET, seconds=0.3, ledger=new_ledger(), group="g")
    assert row.ended == "left"
    assert row.note.startswith("open for ")
    assert row.size_bytes < 65536
    assert written < 20_000_000, "the writer was held back"


async def test_slow_reader_sees_that_the_server_resets_it() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(LARGE + b"x" * 10_000_000)
        await asyncio.sleep(0.1)
        reset(writer)

    async with scripted_server(script) as port:
        row = await read_slowly(port, GET, seconds=5.0, ledger=new_ledger(), group="g")
    assert row.ended == "truncated"
    assert row.note.startswith("closed by server after ")


async def test_slow_reader_reads_as_much_as_it_is_told() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(LARGE + b"x" * 10_000_000)
        await reader.read()

    async with scripted_server(script) as port:
        row = await read_slowly(
            port, GET, seconds=0.5, ledger=new_ledger(), group="g", read_bytes=100_000
        )
    assert row.ended == "left"
    assert 100_000 <= row.size_bytes < 1_000_000


async def test_small_answer_to_a_slow_reader_is_complete() -> None:
    async with scripted_server(serve_ok) as port:
        row = await read_slowly(port, GET, seconds=5.0, ledger=new_ledger(), group="g")
    assert (row.ended, row.status) == ("complete", 200)


async def test_leaving_client_is_seen_to_go() -> None:
    gone = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        assert await reader.read() == b""
        gone.set()

    async with scripted_server(script) as port:
        row = await leave_early(port, GET, after=0.05, ledger=new_ledger(), group="g")
        async with asyncio.timeout(2.0):
            await gone.wait()
    assert row.ended == "left"
    assert row.note.startswith("open for ")


async def test_answer_that_comes_sooner_is_complete() -> None:
    async with scripted_server(serve_ok) as port:
        row = await leave_early(port, GET, after=5.0, ledger=new_ledger(), group="g")
    assert row.ended == "complete"


async def test_rude_clients_are_refused_like_others() -> None:
    ledger = new_ledger()
    rows = [
        await send_half_head(free_port(), seconds=1.0, ledger=ledger, group="g"),
        await leave_early(free_port(), GET, after=1.0, ledger=ledger, group="g"),
    ]
    assert [row.ended for row in rows] == ["refused", "refused"]


async def test_cancelled_rude_client_leaves() -> None:
    ledger, began = new_ledger(), asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        began.set()
        await reader.read()

    async with scripted_server(script) as port:
        holding = asyncio.create_task(send_half_head(port, seconds=9.0, ledger=ledger, group="g"))
        await began.wait()
        holding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holding
    assert [row.ended for row in ledger.rows] == ["left"]
