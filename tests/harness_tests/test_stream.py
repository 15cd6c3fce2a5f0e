"""The stream: chunks, server-sent events, how it ended, and a reader that stalls."""

import asyncio

import pytest

from tests.harness import Event, Stream, StreamEnded, scripted_server
from tests.harness.peer import Script
from tests.harness.stream import EventParser

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(text: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(text), text)


def streaming(*parts: bytes) -> Script:
    """Return a script that reads a request head, says the parts, and closes."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()

    return script


async def test_events_come_one_by_one_with_all_their_fields() -> None:
    script = streaming(
        HEAD,
        chunk(b": ping\n\n"),
        chunk(b"id: 7\nevent: price\ndata: a\ndata: b\n\nevent: drain\r\nretry: 1500\r\n\r\n"),
        b"0\r\n\r\n",
    )
    async with scripted_server(script) as port, Stream(port, "/events") as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream"
        assert await stream.next_event() == Event(comment="ping")
        assert await stream.next_event() == Event(event="price", data="a\nb", id="7")
        assert await stream.next_event() == Event(event="drain", retry=1500)
        with pytest.raises(StreamEnded, match="complete"):
            await stream.next_event()
        assert len(stream.events) == 3


@pytest.mark.parametrize(
    ("last", "ended"), [(b"0\r\n\r\n", "complete"), (b"", "truncated"), (b"0\r\n", "truncated")]
)
async def test_finish_tells_whether_the_final_chunk_came(last: bytes, ended: str) -> None:
    script = streaming(HEAD, chunk(b"data: 1\n\n"), chunk(b"data: 2\n\n"), last)
    async with scripted_server(script) as port, Stream(port, "/") as stream:
        assert await stream.finish() == ended
        assert [event.data for event in stream.events] == ["1", "2"]


async def test_finish_says_timed_out_while_the_stream_runs_on() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + chunk(b"data: 1\n\n"))
        await reader.read()

    async with scripted_server(endless) as port, Stream(port, "/") as stream:
        assert await stream.finish(timeout=0.05) == "timed_out"
        assert stream.ended is None
        assert (await stream.next_event()).data == "1"
        with pytest.raises(TimeoutError):
            await stream.next_event(timeout=0.05)


async def test_chunks_can_be_iterated() -> None:
    script = streaming(HEAD, chunk(b'{"row": 1}\n'), chunk(b'{"row": 2}\n'), b"0\r\n\r\n")
    async with scripted_server(script) as port, Stream(port, "/rows") as stream:
        assert b"".join([part async for part in stream]) == b'{"row": 1}\n{"row": 2}\n'
        assert stream.ended == "complete"


async def test_a_connection_closed_before_the_head_raises() -> None:
    async with scripted_server(streaming()) as port:
        with pytest.raises(ConnectionResetError, match="truncated"):
            async with Stream(port, "/"):
                pass


async def test_a_stalled_reader_blocks_the_server() -> None:
    async with asyncio.timeout(10):
        blocked = asyncio.Event()

        async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD)
            while True:
                writer.write(chunk(b"x" * 65536))
                try:
                    async with asyncio.timeout(0.2):
                        await writer.drain()
                except TimeoutError:
                    blocked.set()
                    return writer.transport.abort()

        async with (
            scripted_server(flood) as port,
            Stream(port, "/", receive_buffer_bytes=4096),
        ):
            await blocked.wait()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_may_arrive_byte_by_byte_with_any_line_end(end: bytes) -> None:
    raw = end.join([b"data: caf\xc3\xa9", b"id", b"", b": x", b"", b""])
    parser = EventParser()
    events = [e for i in range(len(raw)) for e in parser.feed(raw[i : i + 1])]
    events += parser.feed(b":")  # a lone "\r" waits for the byte that shows it is alone
    assert events == [Event(data="café", id=""), Event(comment="x")]
