"""One client's connection: its `send` is stepped by others, or awaited by the request's task."""

import asyncio
import logging
from asyncio import _enter_task, _leave_task  # see "Extending" in its docs
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context, copy_context
from types import CoroutineType, coroutine
from typing import Any

from starlette.websockets import WebSocketDisconnect

from stormproof._core.asgi import Message, Receive, Send

from ._line import drop, hold_short
from ._straight import straight
from ._wire import Wire

_log = logging.getLogger("stormproof")

_LEAVE_WITHIN = 1.0
"""Seconds a send may take once the stream is to end: the drain waits two for all streams."""


_LEFT = (OSError, WebSocketDisconnect)
"""What `send` raises for a client that has left: ASGI 2.4, and what Starlette makes of it."""


class Gone(Exception):
    """The client has left."""


class Stalled(Exception):
    """The client took nothing for too long, or is too far behind."""


class Connection:
    """Sends to one client, in the name and the context of the task that made it: its owner.

    Others `push`: the server's `send` is stepped once, which is all it needs while the client
    keeps up. A send that has to wait is left to the owner, who is woken for it. The owner alone
    awaits anything here.

    Args:
        wire: How payloads become messages.
        receive: ASGI `receive`.
        send: ASGI `send`.
        send_timeout: Seconds that one send may take.

    Attributes:
        sent_at: The loop's time of the last send.
    """

    __slots__ = (
        "_context",
        "_failure",
        "_is_woken",
        "_loop",
        "_message",
        "_push_send",
        "_receive",
        "_rest",
        "_send",
        "_send_timeout",
        "_sending",
        "_task",
        "_waiting",
        "_wire",
        "sent_at",
    )

    def __init__(self, wire: Wire, receive: Receive, send: Send, send_timeout: float) -> None:
        self._wire = wire
        self._message = wire.message
        self._receive = receive
        self._send = self._push_send = send
        self._send_timeout = send_timeout
        self._loop = asyncio.get_running_loop()
        self._task: Any = asyncio.current_task()
        self._context = copy_context()
        self._rest: tuple[Any, Any] | None = None  # a send that has to wait, and for what
        self._failure: Exception | None = None
        self._is_woken = False
        self._waiting: asyncio.Timeout | None = None
        self._sending: asyncio.Timeout | None = None
        self.sent_at = self._loop.time()

    # What others call: never waits, never raises -------------------------------------------

    def push(self, payload: Any, now: float) -> bool:
        """Send `payload`; False when the owner has to see to it. No task may be current.

        Only while the owner is in `until_woken`, and the last push returned True.
        """
        self.sent_at = now
        loop, task = self._loop, self._task
        _enter_task(loop, task)
        try:
            sending: Any = self._push_send(self._message(payload))
            if type(sending) is CoroutineType:
                self._rest = sending, self._context.run(sending.send, None)
            else:
                steps = sending.__await__()  # granian's are no coroutines
                self._rest = steps, self._context.run(next, steps)
        except StopIteration:
            return True
        except asyncio.CancelledError:
            self.fail(Gone())
        except Exception as exc:
            self.fail(exc)
        else:
            self.wake()
        finally:
            _leave_task(loop, task)
        return False

    def wake(self) -> None:
        """Let `until_woken` return, now or when it is called."""
        self._is_woken = True
        if self._waiting is not None:
            self._waiting.reschedule(self._loop.time())
            self._waiting = None

    def fail(self, exc: Exception) -> None:
        """Let the owner end with `exc`, also out of a send that waits."""
        if self._failure is None:
            self._failure = exc
        self._limit_send(0.0)
        self.wake()

    def hurry(self) -> None:
        """Give each send, the one under way included, no more than a second from now on."""
        self._send_timeout = min(self._send_timeout, _LEAVE_WITHIN)
        self._limit_send(self._send_timeout)

    # What the owner calls -------------------------------------------------------------------

    async def begin(self, start: Message) -> None:
        """Send the message that begins the response; raises as `write`."""
        hold_short(self._receive, silence=self._send_timeout)
        await self._bounded(lambda: self._send(start))
        self._push_send = straight(self._send)

    async def until_woken(self) -> bool:
        """Wait until somebody wakes the owner; False when the client has left.

        Cancelled: nothing is left behind.

        Raises:
            Gone: A push told that the client has left.
            Exception: What it was told to fail with, or `send` has raised.
        """
        # One frame and no more: it is what an idle connection consists of.
        if not self._is_woken:
            limit = asyncio.timeout(None)
            try:
                async with limit:
                    self._waiting = limit
                    # No limit: it ends with the client, or with whoever wakes us.
                    while (await self._receive())["type"] != self._wire.disconnected:
                        pass
                return False
            except TimeoutError:
                if not limit.expired():
                    raise
            finally:
                self._waiting = None
        self._is_woken = False
        self._raise_failure()
        return True

    async def settle(self) -> None:
        """Finish the send that a push has begun; raises as `write`."""
        if self._rest is not None:
            (steps, yielded), self._rest = self._rest, None
            await self._bounded(lambda: _go_on(self._context, steps, yielded))

    async def write(self, payload: Any) -> None:
        """Send `payload`, within the time a send may take.

        Raises:
            Gone: The server says that the client has left.
            Stalled: It took nothing in that time.
            Exception: What it was told to fail with, or `send` has raised.
        """
        await self._bounded(lambda: self._send(self._message(payload)))

    async def write_message(self, message: Message) -> None:
        """Send a message of another kind; raises as `write`."""
        await self._bounded(lambda: self._send(message))

    async def cut(self, *messages: Message) -> None:
        """Send the last words of a stream that has failed, as far as the client takes them.

        The failure goes on in the caller: what the server raises for them is no news.
        """
        self._failure = None
        self.hurry()
        try:
            for message in messages:
                await self.write_message(message)
        except Exception as exc:
            _log.debug("the last words of a stream that failed: %r", exc)

    def reset(self) -> None:
        """Drop the connection itself, where the server lets us: its reader takes nothing."""
        drop(self._receive)

    def close(self) -> None:
        """Drop a send that a push has begun, and what leads back here."""
        rest, self._rest = self._rest, None
        self._task = None
        if rest is not None and hasattr(rest[0], "close"):
            rest[0].close()

    # -----------------------------------------------------------------------------------------

    async def _bounded(self, begin: Callable[[], Awaitable[None]]) -> None:
        self._raise_failure()
        limit = asyncio.timeout(self._send_timeout)
        try:
            async with limit:
                self._sending = limit
                await begin()
        except _LEFT as exc:  # TimeoutError is an OSError, too
            if not limit.expired():
                self._failure = Gone()
            elif self._failure is None:
                self._failure = Stalled()
            raise self._failure from exc
        finally:
            self._sending = None
        self.sent_at = self._loop.time()

    def _raise_failure(self) -> None:
        if isinstance(self._failure, _LEFT):
            raise Gone from self._failure
        if self._failure is not None:
            raise self._failure

    def _limit_send(self, seconds: float) -> None:
        sending = self._sending
        if sending is not None and not sending.expired():
            at, until = sending.when(), self._loop.time() + seconds
            sending.reschedule(until if at is None else min(at, until))


@coroutine
def _go_on(context: Context, steps: Any, yielded: Any) -> Generator[Any, Any, None]:
    """Await the rest of a coroutine whose first step was taken elsewhere."""
    step = getattr(steps, "send", None) or (lambda _: next(steps))
    try:
        while True:
            try:
                value = yield yielded
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as exc:
                yielded = context.run(steps.throw, exc)
            else:
                yielded = context.run(step, value)
    except StopIteration:
        return
