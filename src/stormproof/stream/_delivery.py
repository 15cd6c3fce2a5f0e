"""Delivery: brings what a source yields to one client, and ends it in the right way."""

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from stormproof._core.asgi import Message, Receive, Send
from stormproof._core.lifecycle import StreamPlace
from stormproof.errors import StreamIdle

from ._sender import Gone, Sender, Stalled

_log = logging.getLogger("stormproof")

_LOOK_AGAIN = 0.5
"""Seconds after which silence is measured again when a send has been under way."""

_LEAVE_WITHIN = 1.0
"""Seconds a send may take once a drain has asked the stream to leave.

The drain waits two seconds for all streams; a reader that is stalled by then is dropped.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to deliver and how.

    Attributes:
        name: Method and route, for logs and events.
        source: Where items come from; closed at the end if it can be.
        encode: From one item to the chunks of its bytes; what it keeps back, `flush` gives.
        start: The `http.response.start` message.
        opening: Bytes before the first item; None: not even the start is sent before there are
            bytes, so that a source that fails at once can still be answered with an error.
        closing: From nothing to the bytes after the last item (only when the source is over).
        flush: From nothing to the bytes that `encode` has kept back.
        linger: Seconds after which they are asked for while the source is silent.
        send_timeout: Seconds that one send may take.
        idle_timeout: Seconds that the source may take for an item; None for any number.
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
    opening: bytes | None = b""
    closing: Callable[[], bytes] = bytes
    flush: Callable[[], bytes] = bytes
    linger: float | None = None
    send_timeout: float
    idle_timeout: float | None = None
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
    leave in a drain, and the silence that wants a heartbeat or is too long, and it is who ends
    the response.

    Args:
        plan: What to deliver and how.
        receive: ASGI `receive`.
        send: ASGI `send`.
        place: The place whose `leave` is followed; None for a response that runs to its end.

    Attributes:
        reason: Why it ended, as `StreamEnded` says it; "deadline" until that is known, since
            the task of a request is cancelled when its time is over.
        sender: The way to the client.
    """

    def __init__(
        self, plan: Plan, receive: Receive, send: Send, place: StreamPlace | None = None
    ) -> None:
        self.reason = "deadline"
        self.sender = Sender(send, start=plan.start, timeout=plan.send_timeout)
        self._plan = plan
        self._receive = receive
        self._place = place
        self._iterator: AsyncIterator[Any] | None = None
        self._now = asyncio.get_running_loop().time
        self._asked_at = self._now()  # when the source was asked for the item it owes
        self._pump_task: asyncio.Task[None] | None = None
        self._has_item = False  # the pump holds an item that is not sent yet
        self._is_stopping = False  # the pump is to take no further item
        self._is_closing = False  # the pump has begun to close the source
        self._was_cancelled = False  # once only: a second one would hit the source's clean-up

    @property
    def has_started(self) -> bool:
        """Whether the start was sent, so that no other answer can be given."""
        return self.sender.has_started

    async def run(self) -> None:
        """Deliver until the end, and set `reason`.

        Waits as long as the source has items and the client takes them; each send has its
        limit. Cancelled: the source is closed and awaited, and the response stays without an
        end. However it ends, no task is left and the source is closed.

        Raises:
            StreamIdle: The source was silent for too long; the response is without an end.
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
        except Gone:
            self.reason = "left"
        except Stalled:
            self.reason = "stalled"
            _log.warning(
                "%s: the reader took nothing for %.1f s after %d sends; it is dropped",
                self._plan.name, self.sender.timeout, self.sender.sent,
            )  # fmt: skip
        except Exception:
            if self.reason != "idle":
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
            # Ends: silence has lasted, or the source, the client or the drain moves. A response
            # that minds no silence waits for these alone.
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
            if not self._has_item:  # else a send is under way, which has its own limit
                await self._in_silence()

    async def _after(self, pump: "asyncio.Task[None]") -> str:
        """End the response in the way in which the pump has ended."""
        try:
            if pump.cancelled():
                # Nobody cancelled the pump, so a task that the source awaited was cancelled.
                raise RuntimeError("the source of the stream raised CancelledError")
            pump.result()
            last = self._plan.closing()
        except (Gone, Stalled):
            raise
        except Exception as exc:
            await self._cut(f"failed after {self.sender.sent} sends", exc)
            raise
        await self.sender.write(last, more=False)
        return "finished"

    async def _take_leave(self) -> str:
        """End the response early and politely, after the event that is on its way."""
        self._is_stopping = True
        if not self._has_item:
            self._cancel_pump()
        await self.sender.write(self._plan.farewell())
        await self.sender.write(b"", more=False)
        return "drain"

    async def _cut(self, what: str, error: Exception) -> None:
        """Tell the client that the stream failed, and leave the response without an end."""
        if not self.sender.has_started:
            return  # the error is the answer
        _log.error("%s %s and is cut: %s: %s", self._plan.name, what, type(error).__name__, error)
        if self.reason != "idle":
            self.reason = "failed"  # before the cut: a middleware may cancel us for it
        try:
            await self.sender.cut(self._plan.failure, within=_LEAVE_WITHIN)
        except Exception as exc:
            _log.debug("%s: cut (%r)", self._plan.name, exc)

    async def _in_silence(self) -> None:
        """Do what is due while the source keeps silent.

        Raises:
            StreamIdle: It was silent for `idle_timeout`; the response is cut.
        """
        plan, now = self._plan, self._now()
        if plan.linger is not None:
            await self.sender.write(plan.flush())
        idle = plan.idle_timeout
        if idle is not None and now - self._asked_at >= idle:
            raise await self._idle(idle)
        if plan.heartbeat is not None and now - self.sender.last_at >= plan.heartbeat:
            await self.sender.write(plan.beat)

    async def _idle(self, seconds: float) -> StreamIdle:
        self.reason = "idle"
        self._is_stopping = True
        self._cancel_pump()
        error = StreamIdle(
            f"{self._plan.name}: the source of the stream yielded nothing for {seconds:g} s; "
            f"find what it waits for, or raise idle_timeout"
        )
        await self._cut(f"is idle after {self.sender.sent} sends", error)
        return error

    def _silence_left(self) -> float | None:
        """Return the seconds until something may be due; None: whatever comes, never."""
        plan, now = self._plan, self._now()
        waits = [] if plan.linger is None else [plan.linger]
        if plan.heartbeat is not None:
            waits.append(self.sender.last_at + plan.heartbeat - now)
        if plan.idle_timeout is not None:
            waits.append(self._asked_at + plan.idle_timeout - now)
        if self._has_item:  # the times above stand still until it is sent
            waits = [_LOOK_AGAIN] if waits else []
        return max(0.0, min(waits)) if waits else None

    async def _pump(self) -> None:
        """Send what the source yields, then close the source."""
        plan, sender = self._plan, self.sender
        try:
            if plan.opening is not None:
                self._has_item = True
                await sender.start()
                await sender.write(plan.opening)
                self._has_item = False
            self._iterator = aiter(plan.source)
            self._asked_at = self._now()
            async for item in self._iterator:
                if self._is_stopping:  # the source swallowed our cancellation
                    return
                self._has_item = True
                for chunk in plan.encode(item):
                    await sender.write(chunk)
                    if sender.sent % plan.sends_per_tick == 0:
                        await asyncio.sleep(0)  # a send that finds room does not yield
                self._has_item = False
                if self._is_stopping:
                    return
                self._asked_at = self._now()
        finally:
            self._has_item = False
            await self._close_source()

    async def _until_left(self) -> None:
        # No limit: it ends with the client or with the delivery, which cancels it.
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _until_turn(self, place: StreamPlace) -> None:
        """Wait for the turn to leave, then hurry the send that is under way."""
        await place.leave.wait()  # no limit: it ends with the delivery, which cancels it
        self.sender.hurry(_LEAVE_WITHIN)

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
        finishes_item = self._is_stopping and self._has_item and not self.sender.is_sending
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
        if error is not None and not isinstance(error, Gone | Stalled):
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
