"""The fault proxy: transparent without a fault, exact with one, and switched in mid-connection."""

import asyncio
import hashlib
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from stormproof.prove.faults import (
    Bandwidth,
    Blackhole,
    Down,
    Fault,
    FaultProxy,
    Latency,
    Refuse,
    Reset,
    SlowClose,
)
from tests.harness import until

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Client:
    """One connection to the proxy, and what the dependency sees of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, words: bytes) -> float:
        """Send words, wait for their echo, and return the seconds it took."""
        begun = time.monotonic()
        self.writer.write(words)
        await self.writer.drain()
        assert await asyncio.wait_for(self.reader.readexactly(len(words)), 10.0) == words
        return time.monotonic() - begun

    async def read(self, timeout: float = 5.0) -> bytes:
        return await asyncio.wait_for(self.reader.read(65_536), timeout)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes; at the end a farewell."""
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.write(b"farewell")


@asynccontextmanager
async def proxied(serve: Serve = echo) -> AsyncIterator[FaultProxy]:
    """Put a proxy before a dependency that serves like that."""
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            await serve(reader, writer)
        except OSError:
            pass
        finally:
            writer.close()
            handlers.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with FaultProxy.before("CACHE_URL", "localhost", port) as proxy:
        yield proxy
    server.close()
    await until(lambda: not handlers, what="the dependency to see the end of each connection")


@asynccontextmanager
async def client(proxy: FaultProxy) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def is_refused(proxy: FaultProxy) -> bool:
    try:
        async with client(proxy):
            return False
    except ConnectionRefusedError:
        return True


async def test_bytes_pass_unchanged_and_are_counted_exactly() -> None:
    words = bytes(range(256)) * 40_000
    async with proxied() as proxy, client(proxy) as one:
        sending = asyncio.create_task(one.ask(words))
        await sending
        assert (proxy.bytes_up, proxy.bytes_down) == (len(words), len(words))
        assert (proxy.attempts, proxy.accepted, proxy.open) == (1, 1, 1)
        one.writer.write_eof()
        assert await one.read() == b"farewell"
        assert await one.read() == b""
        assert proxy.bytes_down == len(words) + len(b"farewell")
        await until(lambda: proxy.open == 0)


async def test_half_close_is_kept() -> None:
    """The app says that it is done and still reads: the answer comes after its end."""
    async with proxied() as proxy, client(proxy) as one:
        await one.ask(b"hello")
        one.writer.write_eof()
        assert await one.read() == b"farewell"
        assert await one.read() == b""


async def test_side_that_does_not_read_holds_up_the_other() -> None:
    written = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        while written < 100_000_000:
            writer.write(b"x" * 65_536)
            await writer.drain()
            written += 65_536

    async with proxied(pour) as proxy:
        async with client(proxy) as one:
            one.writer.transport.pause_reading()  # type: ignore[attr-defined]
            before = -1
            while written != before:
                before = written
                await asyncio.sleep(0.3)
            # The kernel's own buffers take some megabytes; the proxy takes none of it.
            assert written < 20_000_000
        await until(lambda: proxy.open == 0)


async def test_latency_is_added_in_each_direction_and_ends_at_once() -> None:
    async with proxied() as proxy, client(proxy) as one:
        assert await one.ask(b"a") < 1.0
        proxy.set(Latency(0.5))
        assert 1.0 <= await one.ask(b"b") < 2.0
        proxy.clear()
        assert await one.ask(b"c") < 1.0


async def test_latency_keeps_the_flow_of_a_stream() -> None:
    """Ten frames 50 ms apart are late, all of them by the same, and not one after another."""

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(10):
            writer.write(b"%.6f;" % time.monotonic())
            await asyncio.sleep(0.05)

    async with proxied(stream) as proxy:
        proxy.set(Latency(0.5))
        lateness = []
        async with client(proxy) as one:
            while frame := await one.reader.read(16_384):
                sent = float(frame.split(b";")[0])
                lateness.append(time.monotonic() - sent)
        assert min(lateness) >= 0.5
        assert max(lateness) < 2.0  # 5 s one after another


async def test_latency_of_large_answer_is_paid_once() -> None:
    async with proxied() as proxy, client(proxy) as one:
        proxy.set(Latency(0.5))
        assert 1.0 <= await one.ask(b"x" * 200_000) < 3.0  # 4 s one chunk after another


async def test_latency_that_is_cleared_lets_go_of_what_it_held() -> None:
    async with proxied() as proxy, client(proxy) as one:
        proxy.set(Latency(60.0))
        asking = asyncio.create_task(one.ask(b"held"))
        await asyncio.sleep(0.1)
        proxy.clear()
        assert await asking < 5.0


async def test_blackhole_swallows_and_gives_back_when_it_is_cleared() -> None:
    words = b"w" * 500_000
    async with proxied() as proxy, client(proxy) as one, client(proxy) as leaving:
        await one.ask(b"a")
        await leaving.ask(b"b")
        proxy.set(Blackhole())
        up = proxy.bytes_up
        asking = asyncio.create_task(one.ask(words))
        leaving.writer.write_eof()
        async with client(proxy) as late:  # a new connection is accepted, and hears nothing
            late_asking = asyncio.create_task(late.ask(b"late"))
            done, _ = await asyncio.wait((asking, late_asking), timeout=0.4)
            assert not done
            assert proxy.bytes_up == up
            assert proxy.open == 3
            proxy.clear()
            await asyncio.gather(asking, late_asking)
        assert await leaving.read() == b"farewell"
        assert proxy.bytes_up == up + len(words) + len(b"late")


async def test_blackhole_holds_a_bounded_amount() -> None:
    async with proxied() as proxy:
        proxy.set(Blackhole())
        async with client(proxy) as one:
            one.writer.transport.set_write_buffer_limits(high=0)
            taken = 0
            try:
                async with asyncio.timeout(1.0):
                    while taken < 100_000_000:
                        one.writer.write(b"x" * 65_536)
                        await one.writer.drain()
                        taken += 65_536
            except TimeoutError:
                pass
            assert taken < 20_000_000


async def test_down_closes_and_refuses_and_the_port_stays_its_own() -> None:
    async with proxied() as proxy, client(proxy) as one:
        await one.ask(b"a")
        proxy.set(Down())
        assert await one.read() == b""
        assert await is_refused(proxy)
        assert (proxy.attempts, proxy.accepted) == (1, 1)
        await until(lambda: proxy.open == 0)
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", proxy.port))
        proxy.clear()
        async with client(proxy) as again:
            await again.ask(b"b")
        assert (proxy.attempts, proxy.accepted) == (2, 2)


async def test_refuse_accepts_and_closes_and_counts_the_attempts() -> None:
    async with proxied() as proxy, client(proxy) as one:
        await one.ask(b"a")
        proxy.set(Refuse())
        assert await one.read() == b""
        for _ in range(3):
            async with client(proxy) as sent_away:
                assert await sent_away.read() == b""
        assert (proxy.attempts, proxy.accepted) == (4, 1)


async def test_reset_breaks_open_connections_and_new_ones_at_their_first_bytes() -> None:
    async with proxied() as proxy, client(proxy) as one:
        await one.ask(b"a")
        proxy.set(Reset())
        with pytest.raises(ConnectionResetError):
            await one.read()
        async with client(proxy) as new:
            new.writer.write(b"b")
            with pytest.raises(ConnectionResetError):
                await new.read()
        assert proxy.bytes_up == 1


async def test_slow_close_tells_the_end_late_and_bytes_at_once() -> None:
    async with proxied() as proxy, client(proxy) as one:
        proxy.set(SlowClose(1.0))
        assert await one.ask(b"a") < 1.0
        begun = time.monotonic()
        one.writer.write_eof()
        assert await one.read() == b"farewell"
        assert time.monotonic() - begun >= 1.0
        assert await one.read() == b""
        assert time.monotonic() - begun >= 2.0


async def test_bandwidth_is_kept_in_each_direction() -> None:
    async with proxied() as proxy, client(proxy) as one:
        proxy.set(Bandwidth(200_000))
        assert 0.5 <= await one.ask(b"x" * 100_000) < 2.0  # both directions at once
        proxy.clear()
        assert await one.ask(b"x" * 100_000) < 0.5


async def test_fault_after_fault_loses_and_reorders_nothing() -> None:
    """Two megabytes pass while every 20 ms another fault comes that breaks no connection."""
    words = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(65_536))
    faults = (Latency(0.05), Bandwidth(4_000_000), Blackhole(), Fault(), SlowClose(1.0))
    async with proxied() as proxy, client(proxy) as one:

        async def change() -> None:
            while True:
                for fault in faults:
                    proxy.set(fault)
                    await asyncio.sleep(0.02)

        changing = asyncio.create_task(change())
        try:
            await one.ask(words)
        finally:
            changing.cancel()
            await asyncio.gather(changing, return_exceptions=True)
        assert (proxy.bytes_up, proxy.bytes_down) == (len(words), len(words))


async def test_dependency_that_is_not_there_resets_its_callers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    async with FaultProxy.before("CACHE_URL", "127.0.0.1", port) as proxy, client(proxy) as one:
        with pytest.raises(ConnectionResetError):
            await one.read()
        assert (proxy.attempts, proxy.accepted) == (1, 0)


async def test_app_that_breaks_off_is_passed_on_as_a_break() -> None:
    ends: list[str] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(65_536):
                pass
            ends.append("end")
        except ConnectionResetError:
            ends.append("reset")
            raise

    async with proxied(listen) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as rude:
            rude.sendall(b"a")
            await until(lambda: proxy.bytes_up == 1)
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await until(lambda: ends == ["reset"])
        await until(lambda: proxy.open == 0)


@pytest.mark.parametrize("fault", [Fault(), Blackhole(), Latency(60.0), Bandwidth(1), Down()])
async def test_end_of_the_proxy_closes_every_connection_under_any_fault(fault: Fault) -> None:
    async with AsyncExitStack() as clients:
        async with proxied() as proxy:
            one, other = [await clients.enter_async_context(client(proxy)) for _ in range(2)]
            await one.ask(b"a")
            proxy.set(fault)
            other.writer.write(b"bb")
        for left in (one, other):
            with suppress(ConnectionResetError):  # where it had bytes that nobody read
                while await left.read():
                    pass
        assert proxy.open == 0


async def test_connection_that_is_cut_as_it_comes_is_closed() -> None:
    async with proxied() as proxy:
        near, _ = await asyncio.gather(_connected(proxy), _set_at_first_attempt(proxy, Down()))
        with near, suppress(ConnectionResetError):
            assert await asyncio.to_thread(near.recv, 1) == b""
        await until(lambda: proxy.open == 0)


async def test_want_of_descriptors_makes_callers_wait_and_does_not_spin() -> None:
    async with proxied() as proxy:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as near:
            near.setblocking(False)
            lowest = os.dup(0)
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                await asyncio.get_running_loop().sock_connect(near, ("127.0.0.1", proxy.port))
                spent = time.process_time()
                await asyncio.sleep(0.3)
                assert time.process_time() - spent < 0.15
                assert proxy.attempts == 0
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await until(lambda: proxy.accepted == 1)


async def _connected(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5.0)


async def _set_at_first_attempt(proxy: FaultProxy, fault: Fault) -> None:
    while not proxy.attempts:
        await asyncio.sleep(0)
    proxy.set(fault)


async def test_hundreds_of_connections_at_once_are_carried() -> None:
    async with proxied() as proxy:

        async def come_and_go() -> None:
            async with client(proxy) as one:
                await one.ask(b"x" * 1000)

        await asyncio.gather(*(come_and_go() for _ in range(300)))
        await until(lambda: proxy.open == 0)
        assert (proxy.attempts, proxy.accepted) == (300, 300)
        assert proxy.bytes_up == 300_000
        assert proxy.bytes_down >= 300_000  # and farewells, as far as they came in time
