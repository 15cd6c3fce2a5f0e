"""Delivery: brings what a source yields to one client, and ends it in the right way."""

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from stormproof._core.asgi import Message, Receive, Send
from stormproof._core.lifecycle import StreamPlace

_log = logging.getLogger("stormproof")

_LEAVE_WITHIN = 1.0
"""Seconds a send may take once a drain has asked the stream to leave.

The drain waits two seconds for all streams; a reader that is stalled by then is dropped.
"""

_CUT: Message = {"type": "http.response.truncate"}


class _Gone(Exception):
    """The client has left."""


class _Stalled(Exception):
    """The client took nothing for too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to deliver and how.

    Attributes:
        name: Method and route, for logs and events.
        source: Where items come from; closed at the end if it can be.
        encode: From one item to the chunks of its bytes.
        start: The `http.response.start` message.
        opening: Bytes before the first item, may be empty.
        closing: From nothing to the bytes after the last item (only when the source is over).
        send_timeout: Seconds that one send may take.
        sends_per_tick: After so many sends in a row other tasks get a turn.
        heartbeat: Seconds without a chunk after which `beat` is sent; None for never.
        beat: The bytes of a heartbeat.
        farewell: The bytes before a polite early end.
        failure: The bytes before the cut, when the source has failed.
    """

    name: str
    source: AsyncIterable[Any]
    encode: Callable[[Any], Iterable[bytes]]
    start: Message
    opening: bytes = b""
    closing: Callable[[], bytes] = bytes
    send_timeout: float
    sends_per_tick: int = 1
    heartbeat: float | None = None
    beat: bytes = b""
    farewell: Callable[[], bytes] = bytes
    failure: bytes = b""


class Delivery:
    """One response on its way to one client.

    The source is iterated from its first item to its closing in one task, the pump, so context
    variables, cancel scopes and timeouts in a generator work across its `yield`s. The pump
    sends, too. The request's own task supervises it: it sees the client leave, the turn to
    leave in a drain, and the silence that wants a heartbeat, and it is who ends the response.

    Args:
        plan: What to deliver and how.
        receive: ASGI `receive`.
        send: ASGI `send`.
        place: The place whose `leave` is followed; None for a response that runs to its end.

    Attributes:
        reason: Why it ended, as `StreamEnded` says it; "deadline" until that is known, since
            the task of a request is cancelled when its time is over.
    """

    def __init__(
        self, plan: Plan, receive: Receive, send: Send, place: StreamPlace | None = None
    ) -> None:
        self._plan = plan
        self._receive = receive
        self._send = send
        self._place = place
        self.reason = "deadline"
        self._sent = 0
        self._lock = asyncio.Lock()
        self._limit: asyncio.Timeout | None = None
        self._broken: _Gone | _Stalled | None = None
        self._iterator: AsyncIterator[Any] | None = None
        self._send_timeout = plan.send_timeout
        self._last_at = _now()
        self._pump_task: asyncio.Task[None] | None = None
        self._has_item = False  # the pump holds an item that is not sent yet
        self._is_stopping = False  # the pump is to take no further item
        self._is_closing = False  # the pump has begun to close the source
        self._was_cancelled = False  # once only: a second one would hit the source's clean-up

    async def run(self) -> None:
        """Deliver until the end, and set `reason`.

        Waits as long as the source has items and the client takes them; each send has its
        limit. Cancelled: the source is closed and awaited, and the response stays without an
        end. However it ends, no task is left and the source is closed.

        Raises:
            Exception: What the source raised; the response was left without an end.
        """
        pump = self._pump_task = asyncio.create_task(self._pump(), name=f"pump {self._plan.name}")
        left = asyncio.create_task(self._until_left(), name=f"disconnect {self._plan.name}")
        watched: set[asyncio.Task[Any]] = {pump, left}
        leave = None
        if self._place is not None:
            leave = asyncio.create_task(self._until_turn(self._place))
            watched.add(leave)
        try:
            self.reason = await self._supervise(pump, left, leave)
        except _Gone:
            self.reason = "left"
        except _Stalled:
            self.reason = "stalled"
            _log.warning(
                "%s: the reader took nothing for %.1f s after %d sends; it is dropped",
                self._plan.name, self._send_timeout, self._sent,
            )  # fmt: skip
        except Exception:
            self.reason = "failed"
            raise
        finally:
            await self._settle(watched)

    async def _supervise(
        self,
        pump: "asyncio.Task[None]",
        left: "asyncio.Task[None]",
        leave: "asyncio.Task[None] | None",
    ) -> str:
        watched = {task for task in (pump, left, leave) if task is not None}
        while True:
            # Ends: a heartbeat is due, or the source, the client or the drain moves. A response
            # without heartbeats waits for these alone.
            await asyncio.wait(
                watched, timeout=self._silence_left(), return_when=asyncio.FIRST_COMPLETED
            )
            if pump.done():
                return await self._after(pump)
            if left.done():
                left.result()
                return "left"
            if leave is not None and leave.done():
                return await self._take_leave()
            await self._beat()

    async def _after(self, pump: "asyncio.Task[None]") -> str:
        """End the response in the way in which the pump has ended."""
        try:
            if pump.cancelled():
                # Nobody cancelled the pump, so a task that the source awaited was cancelled.
                raise RuntimeError("the source of the stream raised CancelledError")
            pump.result()
        except (_Gone, _Stalled):
            raise
        except Exception as exc:
            _log.error(
                "%s failed after %d sends and is cut: %s: %s",
                self._plan.name, self._sent, type(exc).__name__, exc,
            )  # fmt: skip
            self.reason = "failed"  # before the cut: a middleware may cancel us for it
            await self._cut()
            raise
        await self._write(self._plan.closing(), more=False)
        return "finished"

    async def _take_leave(self) -> str:
        """End the response early and politely, after the event that is on its way."""
        self._is_stopping = True
        if not self._has_item:
            self._cancel_pump()
        await self._write(self._plan.farewell())
        await self._write(b"", more=False)
        return "drain"

    async def _cut(self) -> None:
        """Say that the stream failed, and make sure that nobody completes the response.

        Starlette's BaseHTTPMiddleware (1.10) writes the final chunk when the app inside it
        has raised. A message it does not know makes it raise instead; servers refuse the
        message, and the connection is closed as for any exception.
        """
        self._send_timeout = min(self._send_timeout, _LEAVE_WITHIN)
        try:
            await self._write(self._plan.failure)
            async with asyncio.timeout(_LEAVE_WITHIN):
                await self._send(_CUT)
        except Exception as exc:
            _log.debug("%s: cut (%r)", self._plan.name, exc)

    async def _beat(self) -> None:
        heartbeat = self._plan.heartbeat
        if heartbeat is None or self._has_item or _now() - self._last_at < heartbeat:
            return
        await self._write(self._plan.beat)

    def _silence_left(self) -> float | None:
        heartbeat = self._plan.heartbeat
        if heartbeat is None:
            return None
        if self._has_item:
            return heartbeat  # a send is under way: it has its own limit
        return max(0.0, self._last_at + heartbeat - _now())

    async def _pump(self) -> None:
        """Send what the source yields, then close the source."""
        try:
            await self._start()
            self._iterator = aiter(self._plan.source)
            async for item in self._iterator:
                if self._is_stopping:  # the source swallowed our cancellation
                    return
                chunks = self._plan.encode(item)
                self._has_item = True
                for chunk in chunks:
                    await self._write(chunk)
                    if self._sent % self._plan.sends_per_tick == 0:
                        await asyncio.sleep(0)  # a send that finds room does not yield
                self._has_item = False
                if self._is_stopping:
                    return
        finally:
            self._has_item = False
            await self._close_source()

    async def _start(self) -> None:
        self._has_item = True
        await self._guarded_send(self._plan.start)
        if self._plan.opening:
            await self._write(self._plan.opening)
        self._has_item = False

    async def _write(self, chunk: bytes, *, more: bool = True) -> None:
        if chunk or not more:
            message = {"type": "http.response.body", "body": chunk, "more_body": more}
            await self._guarded_send(message)

    async def _guarded_send(self, message: Message) -> None:
        """Send when it is our turn, within the limit.

        Raises:
            _Gone: The server says that the client has left.
            _Stalled: The limit has passed.
        """
        async with self._lock:
            if self._broken is not None:  # after a lost chunk nothing may make it look whole
                raise self._broken
            limit = asyncio.timeout(self._send_timeout)
            try:
                async with limit:
                    self._limit = limit
                    await self._send(message)
            except OSError as exc:  # ASGI 2.4; TimeoutError is one, too
                self._broken = (_Stalled if limit.expired() else _Gone)()
                raise self._broken from exc
            finally:
                self._limit = None
            self._sent += 1
            self._last_at = _now()

    async def _until_left(self) -> None:
        # No limit: it ends with the client or with the delivery, which cancels it.
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _until_turn(self, place: StreamPlace) -> None:
        """Wait for the turn to leave, then hurry the send that is under way."""
        await place.leave.wait()  # no limit: it ends with the delivery, which cancels it
        self._send_timeout = min(self._send_timeout, _LEAVE_WITHIN)
        if self._limit is not None and not self._limit.expired():
            hurried_at = asyncio.get_running_loop().time() + self._send_timeout
            at = self._limit.when()
            self._limit.reschedule(hurried_at if at is None else min(at, hurried_at))

    def _cancel_pump(self) -> None:
        pump = self._pump_task
        if pump is not None and not (self._is_closing or self._was_cancelled):
            self._was_cancelled = True
            pump.cancel()

    async def _settle(self, tasks: "set[asyncio.Task[Any]]") -> None:
        """End every task and wait for it; the source is closed when this returns.

        The source's clean-up has no limit here, since a limit would leave it behind. A
        cancellation that comes meanwhile reaches that clean-up, as in a plain `async for`.
        """
        finishes_item = self._is_stopping and self._has_item and not self._lock.locked()
        self._is_stopping = True
        for task in tasks:
            if task is not self._pump_task:
                task.cancel()
            elif not finishes_item:
                self._cancel_pump()
        await _ended(tasks)
        if not self._is_closing:  # cancelled before its first step, the pump never ran
            closing = asyncio.create_task(self._close_source())
            await _ended({closing})
        self._note_late_failure()

    def _note_late_failure(self) -> None:
        pump = self._pump_task
        if pump is None or not self._was_cancelled or pump.cancelled():
            return
        error = pump.exception()
        if error is not None and not isinstance(error, _Gone | _Stalled):
            _log.error("%s: the source failed when it was closed", self._plan.name, exc_info=error)

    async def _close_source(self) -> None:
        self._is_closing = True
        iterator, source = self._iterator, self._plan.source
        targets = (source,) if iterator in (None, source) else (iterator, source)
        await close_sources(self._plan.name, *targets)


async def close_sources(name: str, *targets: object) -> None:
    """Close what can be closed; an error of a clean-up is logged, since nobody waits for it."""
    for target in targets:
        close: Callable[[], Awaitable[object]] | None = getattr(target, "aclose", None)
        try:
            if close is not None:
                await close()
        except Exception:
            _log.exception("%s: the source could not be closed", name)


async def _ended(tasks: "set[asyncio.Task[Any]]") -> None:
    """Wait until all tasks have ended; cancelled meanwhile, cancel them and wait on."""
    cancelled: asyncio.CancelledError | None = None
    while pending := {task for task in tasks if not task.done()}:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as exc:
            cancelled = exc
            for task in pending:
                task.cancel()
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen: asyncio is not to complain about it
    if cancelled is not None:
        raise cancelled


def _now() -> float:
    return asyncio.get_running_loop().time()
