"""The canary: asks on and on, through stalls, closed connections and restarts."""

import asyncio
from contextlib import suppress

from stormproof.prove.load import canary
from tests.harness import free_port, scripted_server, until

from .servers import OK, read_request, serve_nothing, serve_ok


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_canary_asks_again_and_again_on_one_connection() -> None:
    connections, heads = 0, list[bytes]()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        heads.append(await read_request(reader))
        writer.write(OK)
        await serve_ok(reader, writer)

    async with (
        scripted_server(script) as port,
        canary(port, "/livez", zero=now(), interval=0.01) as probes,
    ):
        await until(lambda: len(probes) >= 10)
    assert connections == 1
    assert heads[0].startswith(b"GET /livez HTTP/1.1\r\n")
    assert b"X-Stormproof-Id" not in heads[0], "the agent tells of those that have a number"
    assert {probe.status for probe in probes} == {200}
    assert [probe.at for probe in probes] == sorted(probe.at for probe in probes)


async def test_no_answer_is_a_status_of_zero() -> None:
    async with (
        scripted_server(serve_nothing) as port,
        canary(port, "/livez", zero=now(), interval=0.01, timeout=0.05) as probes,
    ):
        await until(lambda: len(probes) >= 2)
    assert {probe.status for probe in probes} == {0}
    assert all(probe.seconds >= 0.05 for probe in probes)


async def test_refused_is_a_status_of_zero() -> None:
    async with canary(free_port(), "/livez", zero=now(), interval=0.01) as probes:
        await until(lambda: len(probes) >= 2)
    assert {probe.status for probe in probes} == {0}


async def test_connection_closed_under_a_question_is_opened_anew() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        with suppress(EOFError):
            await read_request(reader)

    async with (
        scripted_server(script) as port,
        canary(port, "/livez", zero=now(), interval=0.01) as probes,
    ):
        await until(lambda: len(probes) >= 10)
    assert {probe.status for probe in probes} == {200}
