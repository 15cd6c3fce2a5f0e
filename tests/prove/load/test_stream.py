"""The reader of streams: what came when, how it ended, and what an event stream said."""

import asyncio

import pytest

from stormproof.prove.load import Shot, StreamReader
from stormproof.prove.load._sse import EventParser
from tests.harness import free_port

from .servers import GET, new_ledger, read_request, reset, scripted_server

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def streams(pieces: list[bytes], then: str, had: asyncio.Event | None = None):  # type: ignore[no-untyped-def]
    """Return a script that sends the pieces, each after the client `had` the one before."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(HEAD)
        for piece in pieces:
            writer.write(chunk(piece))
            if had is not None:
                await had.wait()
                had.clear()
                await asyncio.sleep(0.005)  # what comes within a millisecond is one piece
        if then == "final":
            writer.write(b"0\r\n\r\n")
        elif then == "reset":
            reset(writer)
        elif then == "go on":
            await reader.read()

    return script


async def test_event_stream_is_read_to_its_final_chunk() -> None:
    ledger = new_ledger()
    pieces = [
        b": ping\n\n",
        b"event: price\ndata: 1\n",
        b"\n",
        b"event: bye\nretry: 1500\ndata\n\n",
    ]
    had = asyncio.Event()
    async with (
        scripted_server(streams(pieces, "final", had)) as port,
        StreamReader(port, GET, ledger=ledger, group="g") as reader,
    ):
        assert await reader.wait_first_byte(2.0)
        for number in range(1, 5):
            assert await reader.until(lambda count=number: len(reader.chunks) == count, 2.0)
            had.set()
        assert await reader.wait_end(2.0) == "complete"
        assert reader.has_final_chunk
    assert [(each.event, each.has_data, each.retry, each.is_comment) for each in reader.events] == [
        ("", False, None, True),
        ("price", True, None, False),
        ("bye", True, 1500, False),
    ]
    assert (reader.status, reader.last_event, reader.retry_ms) == (200, "bye", 1500)
    assert reader.headers["cache-control"] == "no-store"
    assert bytes(reader.body) == b"".join(pieces)
    assert sum(size for _, size in reader.chunks) == reader.request().size_bytes
    times = [at for at, _ in reader.chunks]
    assert len(times) == 4
    assert times == sorted(times)
    assert times[1] - times[0] >= 0.005
    assert ledger.rows == [reader.request()]
    assert reader.ended_at == ledger.rows[0].last_byte_at


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_stream_without_its_final_chunk_is_truncated(then: str) -> None:
    async with (
        scripted_server(streams([b"data: 1\n\n"], then)) as port,
        StreamReader(port, GET, ledger=new_ledger(), group="g") as reader,
    ):
        assert await reader.wait_end(2.0) == "truncated"
        assert not reader.has_final_chunk


async def test_stream_that_goes_on_is_left_at_exit() -> None:
    ledger = new_ledger()
    async with (
        scripted_server(streams([b"data: 1\n\n"], "go on")) as port,
        StreamReader(port, GET, ledger=ledger, group="g") as reader,
    ):
        assert await reader.until(lambda: bool(reader.events), 2.0)
        assert await reader.wait_end(0.05) is None
        assert reader.ended is None
        with pytest.raises(RuntimeError, match="goes on"):
            reader.request()
    assert reader.ended == "left"
    assert [row.ended for row in ledger.rows] == ["left"]
    assert reader.request().status == 200


async def test_reader_says_that_nobody_listens() -> None:
    ledger = new_ledger()
    async with StreamReader(free_port(), GET, ledger=ledger, group="g") as reader:
        assert reader.ended == "refused"
        assert await reader.wait_end(1.0) == "refused"
        assert not await reader.wait_first_byte(1.0)
    assert (reader.status, reader.headers, reader.has_final_chunk) == (0, {}, False)
    assert len(ledger.rows) == 1


async def test_cancelled_reader_closes_its_connection() -> None:
    ledger, gone, begun = new_ledger(), asyncio.Event(), asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(HEAD)
        begun.set()
        await reader.read()
        gone.set()

    async def read(port: int) -> None:
        async with StreamReader(port, GET, ledger=ledger, group="g") as reader:
            await reader.wait_end(10.0)

    async with scripted_server(script) as port:
        reading = asyncio.create_task(read(port))
        await begun.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        async with asyncio.timeout(2.0):
            await gone.wait()
    assert [row.ended for row in ledger.rows] == ["left"]


async def test_answer_that_is_no_event_stream_has_no_events() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ndata: 1\n\n")

    async with (
        scripted_server(script) as port,
        StreamReader(
            port, Shot(route="r", method="GET", url="/"), ledger=new_ledger(), group="g"
        ) as reader,
    ):
        assert await reader.wait_end(2.0) == "complete"
    assert reader.events == []
    assert reader.has_final_chunk


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_events_are_the_same_however_the_bytes_are_cut(end: bytes, step: int) -> None:
    text = b"\xef\xbb\xbf: hi\n\nevent: a\ndata: x\ndata:z\nretry: 10\n\nretry: no\n\nevent:b\n\n"
    raw = text.replace(b"\n", end) + b":"  # a "\r" is a line's end when the next byte has come
    parser = EventParser()
    found = []
    for start in range(0, len(raw), step):
        found += parser.feed(raw[start : start + step], at=0.0)
    assert [tuple(each[1:]) for each in found] == [
        ("", False, None, True),
        ("a", True, 10, False),
        ("", False, None, False),
        ("b", False, None, False),
    ]


def test_line_without_an_end_is_not_hoarded() -> None:
    parser = EventParser()
    for _ in range(100):
        assert parser.feed(b"data: " + b"x" * 100_000, at=0.0) == []
    assert len(parser._unread) < 200_000
    (event,) = parser.feed(b"\n\n", at=1.0)
    assert event == (1.0, "message", True, None, False)
