"""The loops: every request has one row, whatever the server does."""

import asyncio

import pytest

from stormproof.prove.load import Shot, closed_loop, open_loop
from stormproof.prove.load._shot import in_turns
from tests.harness import free_port, until

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


async def test_open_loop_sends_at_its_rate_on_few_connections() -> None:
    ledger = new_ledger()
    async with scripted_server(serve_ok) as port:
        report = await open_loop(
            port, [GET], rate=200, seconds=0.5, timeout=10.0, ledger=ledger, group="g"
        )
    assert len(ledger.rows) == 100
    assert {row.ended for row in ledger.rows} == {"complete"}
    assert len({row.id for row in ledger.rows}) == 100
    assert report.wanted_rate == 200
    assert 0 < report.sent_rate <= 200
    intended = sorted(row.intended_at for row in ledger.rows)
    assert intended[-1] - intended[0] == pytest.approx(99 / 200)
    assert sum(row.is_reused for row in ledger.rows) > 50


async def test_open_loop_gives_up_in_time_and_says_what_was_never_sent() -> None:
    ledger = new_ledger()
    async with scripted_server(serve_nothing) as port:
        report = await open_loop(
            port,
            [GET],
            rate=100,
            seconds=0.5,
            timeout=0.3,
            ledger=ledger,
            group="g",
            connections=5,
        )
    ends = [row.ended for row in ledger.rows]
    assert len(ends) == 50
    assert set(ends) == {"timeout", "unsent"}
    assert report.is_bottleneck
    assert report.sent_rate < 95
    for row in ledger.rows:
        if row.ended == "timeout":
            assert row.latency is not None
            assert row.latency >= 0.3
        else:
            assert (row.sent_at, row.last_byte_at, row.connection) == (None, None, 0)


async def test_open_loop_is_refused_once_for_each_request() -> None:
    ledger = new_ledger()
    await open_loop(
        free_port(), [GET], rate=100, seconds=0.3, timeout=10.0, ledger=ledger, group="g"
    )
    assert [row.ended for row in ledger.rows] == ["refused"] * 30


async def test_open_loop_does_not_hide_a_server_that_closes_each_connection() -> None:
    ledger = new_ledger()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)  # and closes, without having said so

    async with scripted_server(script) as port:
        await open_loop(port, [GET], rate=100, seconds=0.3, timeout=10.0, ledger=ledger, group="g")
    assert len(ledger.rows) == 30
    assert {row.ended for row in ledger.rows} <= {"complete", "reset"}
    assert all(row.is_reused for row in ledger.rows if row.ended == "reset")


async def test_open_loop_on_a_server_that_accepts_and_closes_ends_at_once() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reset(writer)

    ledger = new_ledger()
    async with scripted_server(script) as port:
        await open_loop(port, [GET], rate=100, seconds=0.3, timeout=30.0, ledger=ledger, group="g")
    assert [row.ended for row in ledger.rows] == ["reset"] * 30
    assert ledger.now() < 15.0, "none waited for its time-out"


async def test_cancelled_open_loop_closes_all_and_leaves_a_row_for_each() -> None:
    ledger = new_ledger()
    open_connections = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_connections
        open_connections += 1
        await serve_nothing(reader, writer)
        open_connections -= 1

    async with scripted_server(script) as port:
        loading = asyncio.create_task(
            open_loop(
                port,
                [GET],
                rate=200,
                seconds=30,
                timeout=10,
                ledger=ledger,
                group="g",
                connections=20,
            )
        )
        await until(lambda: open_connections == 20)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        await until(lambda: open_connections == 0)
    assert sum(row.ended == "left" for row in ledger.rows) == 20
    assert {row.ended for row in ledger.rows} <= {"left", "unsent"}
    assert len(ledger.rows) == ledger.next_id() - 1


@pytest.mark.parametrize("keep_alive", [True, False])
async def test_callers_ask_one_after_another(keep_alive: bool) -> None:
    ledger = new_ledger()
    async with scripted_server(serve_ok) as port:
        report = await closed_loop(
            port,
            [GET],
            callers=4,
            seconds=0.3,
            timeout=10.0,
            ledger=ledger,
            group="g",
            keep_alive=keep_alive,
        )
    assert {row.ended for row in ledger.rows} == {"complete"}
    connections = {row.connection for row in ledger.rows}
    assert len(connections) == (4 if keep_alive else len(ledger.rows))
    assert report.sent_rate == report.wanted_rate > 20


async def test_callers_go_on_after_refused_and_reset() -> None:
    ledger, port = new_ledger(), free_port()
    await closed_loop(port, [GET], callers=2, seconds=0.2, timeout=5.0, ledger=ledger, group="g")
    assert {row.ended for row in ledger.rows} == {"refused"}
    assert 2 <= len(ledger.rows) <= 10, "a pause of 50 ms after each"


async def test_callers_stop_when_they_are_told() -> None:
    ledger, stop = new_ledger(), asyncio.Event()
    async with scripted_server(serve_ok) as port:
        loading = asyncio.create_task(
            closed_loop(
                port,
                [GET],
                callers=3,
                seconds=60.0,
                timeout=1.0,
                ledger=ledger,
                group="g",
                until=stop,
                pause=30.0,
            )
        )
        await until(lambda: len(ledger.rows) == 3)
        stop.set()
        async with asyncio.timeout(2.0):
            await loading


async def test_cancelled_callers_leave() -> None:
    ledger = new_ledger()
    async with scripted_server(serve_nothing) as port:
        loading = asyncio.create_task(
            closed_loop(port, [GET], callers=3, seconds=9, timeout=9, ledger=ledger, group="g")
        )
        await until(lambda: ledger._ids.__reduce__()[1][0] == 4)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
    assert [row.ended for row in ledger.rows] == ["left"] * 3


def test_shots_come_in_turns_by_weight() -> None:
    one, three = (
        Shot(route="1", method="GET", url="/"),
        Shot(route="3", method="GET", url="/", weight=3.0),
    )
    turns = in_turns([one, three])
    assert "".join(next(turns).route for _ in range(8)) == "31333133"
    with pytest.raises(ValueError, match="at least one shot"):
        in_turns([])
