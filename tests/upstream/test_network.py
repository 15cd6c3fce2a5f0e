"""The network under httpx2's pool: TLS, several addresses, slow and vanished other sides."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from stormproof.errors import UpstreamFailed, UpstreamTimeout
from stormproof.upstream import Upstream, _addresses
from tests.harness import free_port, scripted_server, until
from tests.serve.certificates import make_certificate

from .servers import Peer

BIG = b"x" * 3_000_000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def tls_peer(certificate: Path) -> AsyncIterator[Peer]:
    server = Peer()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await server.serve(reader, writer)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
        await until(lambda: server.open_connections == 0)
    finally:
        listening.close()
        await listening.wait_closed()
        await until(lambda: len(asyncio.all_tasks()) == 1)  # those of the listener


async def test_calls_over_tls_share_a_connection_and_carry_big_bodies(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with (
        tls_peer(certificate) as server,
        Upstream(base_url=f"https://localhost:{server.port}") as upstream,
    ):
        assert (await upstream.post("/ok", content=BIG)).json() == {"path": "/ok"}
        assert (await upstream.get("/big")).content == BIG
        assert upstream.statistics().connections_opened == 1
        raw = (await upstream.get("/ok")).extensions["network_stream"]
        assert raw.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert raw.get_extra_info("server_addr")[1] == server.port
        assert raw.get_extra_info("client_addr")[0] == "127.0.0.1"


async def test_certificate_that_is_not_trusted_is_named_and_nothing_stays_open(
    certificate: Path,
) -> None:
    async with (
        tls_peer(certificate) as server,
        Upstream(base_url=f"https://localhost:{server.port}") as upstream,
    ):
        with pytest.raises(UpstreamFailed, match=r"could not be reached .*certificate verify"):
            await upstream.get("/ok")


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_peer_that_accepts_and_says_nothing_is_late_and_left(
    server: Peer, scheme: str
) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.open_connections += 1
        with contextlib.suppress(ConnectionError):
            while await reader.read(1000):
                pass
        server.open_connections -= 1

    async with (
        scripted_server(mute) as port,
        Upstream(base_url=f"{scheme}://localhost:{port}") as upstream,
    ):
        with pytest.raises(UpstreamTimeout):
            await upstream.get("/", timeout=0.1)
        await until(lambda: server.open_connections == 0)


async def test_big_bodies_wait_for_a_slow_other_side(server: Peer) -> None:
    async with Upstream(base_url=server.url("")) as upstream:
        assert (await upstream.post("/ok", content=BIG)).json() == {"path": "/ok"}
        assert (await upstream.get("/big")).content == BIG


async def test_timeouts_of_the_client_itself_hold_on_this_network(server: Peer) -> None:
    async with Upstream(base_url=server.url("")) as upstream:
        client = upstream.client
        with pytest.raises(httpx2.ReadTimeout):
            await client.get("/hang", timeout=0.05)
        with pytest.raises(httpx2.WriteTimeout):
            await client.post("/unread", content=BIG * 5, timeout=0.05)
        with black_hole("127.0.0.1", free_port()) as port, pytest.raises(httpx2.ConnectTimeout):
            await client.get(f"http://127.0.0.1:{port}/", timeout=0.05)
        with pytest.raises(httpx2.ConnectError):
            await client.get(f"http://127.0.0.1:{free_port()}/", timeout=5.0)
        assert (await client.get("/ok", timeout=5.0)).status_code == 200


async def test_connection_that_was_closed_while_the_loop_stood_still_is_not_used_again() -> None:
    """Only the kernel knows of the close by then."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10.0)
    closed = threading.Semaphore(0)

    def serve() -> None:
        with listener, contextlib.suppress(OSError):
            for _ in range(2):
                with listener.accept()[0] as connection:
                    connection.recv(10_000)
                    connection.sendall(b"HTTP/1.1 204 No\r\n\r\n")
                closed.release()

    thread = threading.Thread(target=serve)
    thread.start()
    async with Upstream(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as upstream:
        for _ in range(2):
            assert (await upstream.get("/")).status_code == 204
            assert closed.acquire(timeout=10)  # it blocks the loop on purpose
        assert upstream.statistics().connections_opened == 2
    thread.join()


@contextmanager
def black_hole(address: str, port: int) -> Iterator[int]:
    """Listen, but answer no more SYNs: the queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((address, port))
        yield port


def with_addresses(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    async def resolved(host: str, port: int) -> tuple[str, ...]:
        return addresses

    monkeypatch.setattr(_addresses, "addresses_of", resolved)


async def test_address_that_refuses_and_one_that_is_silent_do_not_keep_the_next_waiting(
    server: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_addresses(monkeypatch, "127.0.0.3", "127.0.0.2", "127.0.0.1")
    async with Upstream(base_url=f"http://users.internal:{server.port}") as upstream:
        with black_hole("127.0.0.2", server.port):
            assert (await upstream.get("/ok", timeout=2.0)).status_code == 200
        assert len(asyncio.all_tasks()) == 1 + server.open_connections == 2
        assert upstream.statistics().connections_opened == 1


async def test_no_address_that_answers_names_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Upstream(base_url=f"http://users.internal:{free_port()}") as upstream:
        with_addresses(monkeypatch, "127.0.0.3", "127.0.0.2")
        with pytest.raises(UpstreamFailed, match=r"127\.0\.0\.3: .*; 127\.0\.0\.2: "):
            await upstream.get("/ok")
        with_addresses(monkeypatch)
        with pytest.raises(UpstreamFailed, match="has no address"):
            await upstream.get("/ok")


@pytest.mark.parametrize("turns", range(0, 16, 3))
async def test_call_cancelled_while_it_connects_leaves_no_task_and_no_socket(
    server: Peer, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    with_addresses(monkeypatch, "127.0.0.2", "127.0.0.1")
    monkeypatch.setattr(_addresses, "_HEAD_START", 0.0)
    async with Upstream(base_url=f"http://users.internal:{server.port}") as upstream:
        with black_hole("127.0.0.2", server.port):
            calling = asyncio.create_task(upstream.get("/hang"))
            for _ in range(turns):
                await asyncio.sleep(0)
            calling.cancel()
            await asyncio.wait([calling])
            await until(lambda: server.open_connections == 0)
            assert len(asyncio.all_tasks()) == 1


async def test_addresses_of_both_families_come_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    async def found(*args: Any, **options: Any) -> list[Any]:
        v4 = [(socket.AF_INET, 1, 6, "", (address, 80)) for address in ("10.0.0.1", "10.0.0.2")]
        return [*v4, (socket.AF_INET6, 1, 6, "", ("fe80::1", 80, 0, 0)), v4[0]]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
    assert await _addresses.addresses_of("a", 80) == ["fe80::1", "10.0.0.1", "10.0.0.2"]
    assert await _addresses.addresses_of("fe80::1%eth0", 80) == ["fe80::1%eth0"]


async def test_proxy_of_the_environment_is_used_and_its_connections_are_counted(
    server: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url(""))
    async with Upstream(base_url="http://users.internal") as upstream:
        assert (await upstream.get("/ok")).status_code == 200
        assert upstream.statistics().connections_opened == 1
    assert server.requests[0].startswith("GET http://users.internal/ok HTTP/1.1")
