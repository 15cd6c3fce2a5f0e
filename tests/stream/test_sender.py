"""One message at a time, whole and in order, whatever the server's `send` does."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stormproof._core.asgi import Message
from stormproof.stream._sender import Gone, Sender, Stalled


class Wire:
    """A `send` that waits while it is closed; it notes what it was given and what went out."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.cleaned = 0

    async def send(self, message: Message) -> None:
        try:
            await self.is_open.wait()
            self.out.append(message.get("body", b"start"))
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.cleaned += 1
            raise


def sender_of(send: Callable[[Message], Awaitable[None]], *, timeout: float = 5.0) -> Sender:
    return Sender(send, start={"type": "http.response.start"}, timeout=timeout)


async def test_what_is_sent_while_a_send_waits_comes_after_it_and_in_order() -> None:
    wire = Wire()
    sender = sender_of(wire.send)
    await sender.write(b"0")
    wire.is_open.clear()
    writing = [asyncio.create_task(sender.write(b"%d" % n)) for n in range(1, 5)]
    await asyncio.sleep(0)
    assert sender.is_sending
    wire.is_open.set()
    late = asyncio.create_task(sender.write(b"5"))  # must not pass those who were woken
    await asyncio.gather(*writing, late)
    assert wire.out == [b"start", b"0", b"1", b"2", b"3", b"4", b"5"]
    assert not sender.is_sending


async def test_what_is_written_while_the_start_waits_comes_after_the_first_chunk() -> None:
    wire = Wire()
    sender = sender_of(wire.send)
    wire.is_open.clear()
    first = asyncio.create_task(sender.write(b"1"))
    await asyncio.sleep(0)
    second = asyncio.create_task(sender.write(b"2"))
    await asyncio.sleep(0)
    wire.is_open.set()
    await asyncio.gather(first, second)
    assert wire.out == [b"start", b"1", b"2"]


async def test_cancelled_send_cleans_up_where_it_waits_and_lets_the_next_one_go() -> None:
    for ticks in range(1, 6):
        wire = Wire()
        sender = sender_of(wire.send)
        await sender.start()
        wire.is_open.clear()
        writing = asyncio.create_task(sender.write(b"lost"))
        for _ in range(ticks):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing])
        assert writing.cancelled()
        assert wire.cleaned == 1
        wire.is_open.set()
        await sender.write(b"next")
        assert wire.out == [b"start", b"next"]


async def test_cancelled_twice_the_clean_up_of_the_send_hears_both() -> None:
    wire = Wire()
    sender = sender_of(wire.send)
    wire.is_open.clear()
    writing = asyncio.create_task(sender.write(b"lost"))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait([writing])
    assert writing.cancelled()
    assert wire.cleaned == 0
    assert not sender.is_sending


async def test_after_a_stall_nothing_is_sent_any_more() -> None:
    wire = Wire()
    sender = sender_of(wire.send, timeout=0.01)
    await sender.start()
    wire.is_open.clear()
    with pytest.raises(Stalled):
        await sender.write(b"lost")
    wire.is_open.set()
    with pytest.raises(Stalled):
        await sender.write(b"", more=False)
    assert wire.out == [b"start"]


@pytest.mark.parametrize("waits_first", [True, False])
async def test_oserror_of_the_server_means_that_the_client_has_left(waits_first: bool) -> None:
    async def send(message: Message) -> None:
        if waits_first:
            await asyncio.sleep(0)
        raise ConnectionResetError

    with pytest.raises(Gone):
        await sender_of(send).write(b"x")


async def test_send_may_return_any_awaitable() -> None:
    sent: list[Any] = []

    def send(message: Message) -> "asyncio.Future[None]":
        sent.append(message)
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, None)
        return future

    await sender_of(send).write(b"x")
    assert [message.get("body") for message in sent] == [None, b"x"]
