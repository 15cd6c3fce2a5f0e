"""Servers that misbehave: each request under load still has one row, and it is the right one."""

import asyncio

import pytest

from stormproof.prove.load import KeptConnection, Ledger, Shot, ask, closed_loop, open_loop
from tests.harness import until

from .servers import GET, OK, new_ledger, read_request, reset, scripted_server, serve_ok

CLOSE = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


async def loaded(script, *, rate: float = 100.0, timeout: float = 10.0) -> Ledger:  # type: ignore[no-untyped-def]
    """Return the ledger of 30 requests of an open loop."""
    ledger = new_ledger()
    async with scripted_server(script) as port:
        await open_loop(
            port,
            [GET],
            rate=rate,
            seconds=30 / rate,
            timeout=timeout,
            ledger=ledger,
            group="g",
        )
    assert len(ledger.rows) == 30
    return ledger


async def test_connection_that_says_close_is_not_used_again() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CLOSE)
        await reader.read()  # it leaves the closing to the client

    ledger = await loaded(script)
    assert {row.ended for row in ledger.rows} == {"complete"}
    assert not any(row.is_reused for row in ledger.rows)


async def test_connection_closed_while_idle_is_not_used_again() -> None:
    """The end is seen when it comes, so the next request goes elsewhere and nothing is reset."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await asyncio.sleep(0.005)

    ledger = await loaded(script, rate=20.0)
    ends = [row.ended for row in ledger.rows]
    assert ends.count("complete") >= 15
    assert set(ends) <= {"complete", "reset"}
    assert all(row.is_reused for row in ledger.rows if row.ended == "reset")


@pytest.mark.parametrize(
    ("answer", "ended", "status"),
    [
        (OK[:-1], "truncated", 200),
        (b"", "reset", 0),
        (b"garbage\r\n\r\n", "truncated", 0),
        (OK + OK, "complete", 200),
    ],
)
async def test_every_row_of_a_load_tells_the_same_fault(
    answer: bytes, ended: str, status: int
) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    ledger = await loaded(script)
    assert {(row.ended, row.status) for row in ledger.rows} == {(ended, status)}
    assert not any(row.is_reused for row in ledger.rows)


async def test_second_answer_to_one_request_is_not_taken_for_the_next_ones() -> None:
    had = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await had.wait()
        writer.write(OK.replace(b"200", b"500"))
        await reader.read()

    async with (
        scripted_server(script) as port,
        KeptConnection(port, ledger=new_ledger(), group="g") as kept,
    ):
        assert (await kept.ask(GET, timeout=5.0)).status == 200
        had.set()
        assert await kept.wait_closed(5.0)
        assert (await kept.ask(GET, timeout=5.0)).status == 0


async def test_dribbled_answer_is_whole_or_out_of_time() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_request(reader)
        for byte in OK:
            writer.write(bytes([byte]))
            await asyncio.sleep(1.0 if b"/slow" in head and byte == OK[-1] else 0.0)

    slow = Shot(route="GET /slow", method="GET", url="/slow")
    ledger = new_ledger()
    async with scripted_server(script) as port:
        whole = await ask(port, GET, timeout=10.0, ledger=ledger, group="g")

    async def stuck(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK[:-1])
        await reader.read()

    async with scripted_server(stuck) as port:
        late = await ask(port, slow, timeout=0.2, ledger=ledger, group="g")
    assert (whole.ended, whole.size_bytes) == ("complete", 2)
    assert (late.ended, late.status, late.size_bytes) == ("timeout", 200, 1)
    assert late.first_byte_at is not None
    assert late.latency is not None
    assert late.latency >= 0.2


async def test_answer_before_the_request_is_not_taken_for_one() -> None:
    """A server that speaks first has broken the connection; nobody asked."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CLOSE.replace(b"200 OK", b"408 Request Timeout"))
        await reader.read()

    ledger = await loaded(script)
    assert {row.ended for row in ledger.rows} <= {"complete", "reset"}
    assert {row.status for row in ledger.rows} <= {0, 408}


async def test_callers_ask_on_after_a_reset_on_a_kept_connection() -> None:
    ledger = new_ledger()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await read_request(reader)
        reset(writer)

    stop = asyncio.Event()
    async with scripted_server(script) as port:
        loading = asyncio.create_task(
            closed_loop(
                port,
                [GET],
                callers=1,
                seconds=30.0,
                timeout=5.0,
                ledger=ledger,
                group="g",
                until=stop,
            )
        )
        await until(lambda: len(ledger.rows) >= 6)
        stop.set()
        await loading
    found = [(row.ended, row.is_reused) for row in ledger.rows[:6]]
    assert found == [("complete", False), ("reset", True)] * 3
    assert all(row.sent_at is not None for row in ledger.rows)


async def test_load_goes_on_when_the_server_comes_back() -> None:
    """Refused while nobody listens, complete afterwards, on the same port."""
    ledger = new_ledger()
    servers: list[asyncio.Server] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve_ok(reader, writer)
        writer.close()

    first = await asyncio.start_server(script, "127.0.0.1", 0)
    port = first.sockets[0].getsockname()[1]
    loading = asyncio.create_task(
        open_loop(port, [GET], rate=100, seconds=2.0, timeout=10.0, ledger=ledger, group="g")
    )
    try:
        await until(lambda: any(row.ended == "complete" for row in ledger.rows))
        first.close()
        closing_at = ledger.now()
        await until(lambda: ledger.now() > closing_at + 0.3)
        servers.append(await asyncio.start_server(script, "127.0.0.1", port))
        await loading
    finally:
        for server in (first, *servers):
            server.close()
    assert len(ledger.rows) == 200
    assert {row.ended for row in ledger.rows} <= {"complete", "refused"}


def test_ledger_aside_shares_the_numbers_and_not_the_rows() -> None:
    ledger = Ledger(0.0)
    aside = ledger.aside()
    assert [ledger.next_id(), aside.next_id(), ledger.next_id()] == [1, 2, 3]
    assert aside.rows is not ledger.rows
    assert aside.zero == ledger.zero


async def test_load_without_a_rate_or_a_shot_is_a_mistake() -> None:
    for shots, rate in (([GET], 0.0), ([], 10.0)):
        with pytest.raises(ValueError, match="a load needs"):
            await open_loop(
                1, shots, rate=rate, seconds=1.0, timeout=1.0, ledger=new_ledger(), group="g"
            )
