"""What the drain does to a running uvicorn, on real sockets."""

import asyncio
import socket
from collections.abc import Callable

import pytest
import uvicorn
from fastapi import FastAPI

from stormproof.lifecycle._uvicorn import Uvicorn
from tests.faults.in_process import serving
from tests.harness import Connection, encode_request, until


def small_app() -> FastAPI:
    app = FastAPI()

    @app.get("/async")
    async def async_endpoint() -> dict[str, str]:
        return {"type": "async"}

    return app


def stop_as_uvicorn_does(server: uvicorn.Server) -> None:
    for listening in server.servers:
        listening.close()


def stop_as_we_do(server: uvicorn.Server) -> None:
    Uvicorn(server).stop_listening()


async def check_clients_in_the_kernels_queue_are_served(
    stop_listening: Callable[[uvicorn.Server], None],
) -> None:
    """Ten clients have connected and sent their request, and the loop had no time to accept."""
    async with serving(small_app()) as (server, port):
        sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
        for connected in sockets:
            connected.sendall(encode_request("GET", "/async"))
            connected.setblocking(False)
        stop_listening(server)
        connections = [Connection(connected, port) for connected in sockets]
        try:
            answers = await asyncio.gather(*(each.read_answer() for each in connections))
        finally:
            for connection in connections:
                connection.close()
        ends = [(answer.status, answer.ended) for answer in answers]
        assert ends == [(200, "complete")] * 10, f"clients in the queue got {set(ends)}"
        with pytest.raises(ConnectionRefusedError):
            await Connection.open(port)


async def test_clients_in_the_kernels_queue_are_served_when_the_listener_closes() -> None:
    await check_clients_in_the_kernels_queue_are_served(stop_as_we_do)


async def test_closing_the_listener_alone_resets_the_clients_in_its_queue() -> None:
    with pytest.raises(AssertionError, match=r"clients in the queue got .*reset"):
        await check_clients_in_the_kernels_queue_are_served(stop_as_uvicorn_does)


async def test_connection_is_new_until_its_first_request_arrives() -> None:
    async with serving(small_app()) as (server, port):
        ours = Uvicorn(server)
        assert not ours.has_connections()
        async with await Connection.open(port) as connection:
            await until(ours.has_connections)
            assert ours.has_new_connections()
            assert (await connection.request("GET", "/async")).status == 200
            assert ours.has_connections()
            assert not ours.has_new_connections()


async def test_begin_shutdown_closes_idle_connections_at_once() -> None:
    async with (
        serving(small_app()) as (server, port),
        await Connection.open(port) as connection,
    ):
        assert (await connection.request("GET", "/async")).status == 200
        Uvicorn(server).begin_shutdown()
        await until(connection.is_closed_by_server)
