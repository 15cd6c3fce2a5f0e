"""One subscriber: what it is sent, what waits for it, what it missed, and how it ends."""

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from stormproof._core.asgi import Receive, Send
from stormproof._core.deadline import remaining
from stormproof.errors import InvalidSetting

from ._backlog import Backlog, Gap
from ._bus import HistoryLost, Position
from ._connection import Connection, Gone, Stalled
from ._feed import Feed
from ._published import Published, Run
from ._terms import Terms
from ._wire import Wire

T = TypeVar("T")

_log = logging.getLogger("stormproof")

_COME_BACK_MS = (1_000, 5_000)
"""Clients come back within these milliseconds after an end, each at its own."""

_REPLAY = 256
_REPLAY_BYTES = 16_384
"""Events of the history that are looked at in one turn, and bytes of them sent at once."""

_BEFORE_DEADLINE = 0.25
"""Seconds before the request's deadline at which a stream ends by itself, politely."""


class Subscriber:
    """One connection of a hub, from its first byte to its last.

    While the client keeps up, the fan-out sends for it, and its own task only watches for its
    leaving. When a send has to wait, that task takes over until nothing waits any more.

    Args:
        feed: Where events come from; it has a position.
        terms: What was agreed.
        receive: ASGI `receive`.
        send: ASGI `send`.

    Attributes:
        reason: Why it ended, as `StreamEnded` says it; "deadline" until that is known, since
            the task of a request is cancelled when its time is over.
        tick: Its place on the wheel.
        topics: What it gets.
    """

    __slots__ = (
        "_after",
        "_backlog",
        "_connection",
        "_ending",
        "_ends_at",
        "_ends_because",
        "_feed",
        "_head",
        "_is_plain",
        "_is_ready",
        "_is_watching",
        "_terms",
        "reason",
        "tick",
        "topics",
    )

    def __init__(self, feed: Feed, terms: Terms, receive: Receive, send: Send) -> None:
        self._feed = feed
        self._terms = terms
        self._connection = Connection(terms.wire, receive, send, terms.send_timeout)
        self._ends_at = terms.ends_at
        self._ends_because = terms.ends_because
        self._is_plain = terms.wire.is_joinable and not (terms.filter or terms.ends_on)
        self._is_watching = False  # its own task sends nothing, so others may
        self._is_ready = False  # ... and the next event is the next it is to get
        self._after = -1  # events up to here it has from another process
        self._backlog: Backlog | None = None
        self._head: Any = None  # goes out before the backlog
        self._ending: str | None = None
        self.tick: int | None = None
        self.topics = terms.topics
        self.reason = "deadline"

    # What others call: never waits, never raises -------------------------------------------

    def offer(self, run: Run, now: float) -> int:
        """Send `run` now, if the client has taken all before it; else let it wait."""
        if self._is_ready and self._is_plain:
            if not self._connection.push(run.joined, now):
                self._is_ready = self._is_watching = False
            return len(run.events)
        try:
            return sum(self._offer_one(event, now) for event in run.events)
        except Exception as exc:  # the filter's
            self._is_ready = self._is_watching = False
            self._connection.fail(exc)
            return 0

    def reset(self, position: Position, now: float) -> int:
        """Tell the client that events before `position` are lost to it."""
        payload = _reset(self._terms.wire, position)
        self._after = -1
        if self._is_ready:
            self._push(payload, now)
        else:
            self._backlog = None
            self._head = payload
            self._take_over()
        return 0

    def end(self, reason: str) -> None:
        """End it politely, for `reason`; the first one counts."""
        if reason != "finished":
            self._connection.hurry()
        if self._ending is None:
            self._ending = reason
            self._is_ready = False
            self._connection.wake()

    def on_time(self, now: float) -> float:
        """End it when its time is over, fill a silence with a heartbeat; return when next."""
        if now + 0.001 >= self._ends_at:
            self.end(self._ends_because)
        heartbeat = self._terms.heartbeat
        if self._is_watching and now - self._connection.sent_at >= heartbeat * 0.75:
            self._push(self._feed.beat(self._terms.wire, has_id=self._is_ready), now)
        # Jitter: those who all got the same event are not to be beaten in the same moment.
        beats_at = max(now, self._connection.sent_at) + heartbeat * random.uniform(0.8, 1.0)
        return min(beats_at, max(self._ends_at, now))

    # What its own task does -----------------------------------------------------------------

    async def run(self) -> None:
        """Serve the client until the end, and set `reason`.

        Waits as long as the client stays and nothing ends the stream. Cancelled: the response
        stays without an end. However it ends, the feed has forgotten it and no task is left.

        Raises:
            Exception: What the filter or the server's `send` has raised; the response was left
                without an end.
        """
        try:
            self.reason = await self._live()
        except Gone:
            self.reason = "left"
        except Stalled:
            self.reason = "stalled"
            _log.warning("%s: the reader is too slow and is dropped", self._terms.name)
            self._connection.reset()
        except Exception as exc:
            self.reason = "failed"
            _log.error("%s failed and is cut: %s: %s", self._terms.name, type(exc).__name__, exc)
            self._feed.leave(self)
            await self._cut()
            raise
        finally:
            # A fan-out under way may still have it on its list.
            self._speak()
            self._ending = self._ending or "left"
            self._feed.leave(self)
            self._connection.close()

    async def _live(self) -> str:
        await self._connection.begin(self._terms.wire.start(self._terms.headers))
        self._heed_deadline()
        self._feed.wheel.add(self, self.on_time(self._connection.sent_at))
        await self._catch_up(await self._open())
        while True:
            await self._work_off()
            if self._ending is not None:
                await self._say_goodbye(self._ending)
                return self._ending
            self._backlog = None
            if not await self._watch(is_ready=self._after <= self._feed.here.offset):
                return "left"
            self._speak()

    def _watch(self, *, is_ready: bool) -> Awaitable[bool]:
        """Let others send until they wake us; False when the client has left.

        Who awaits this has the word again afterwards: `_speak`.
        """
        self._is_watching, self._is_ready = True, is_ready
        return self._connection.until_woken()

    def _speak(self) -> None:
        self._is_watching = self._is_ready = False

    async def _open(self) -> Position:
        """Send the first words, and return the position after which the client wants events."""
        here, text = self._feed.here, self._terms.last_event_id
        asked = here if text is None else Position.parse(text)
        retry_ms = random.randint(*_COME_BACK_MS)
        # The id at once: a client that leaves before the first event can come back to here.
        own_id = str(here) if text is None else None
        await self._connection.write(self._terms.wire.encode(id=own_id, retry_ms=retry_ms))
        if asked is None:
            return await self._lose()
        # Another process may be ahead of this one; or the client has made it up.
        is_ahead = asked.epoch == here.epoch and asked.offset > here.offset
        if is_ahead and not await self._is_known(asked):
            return await self._lose()
        return asked

    async def _is_known(self, ahead: Position) -> bool:
        """Return whether the bus has `ahead`: a store that was restored may go on behind it."""
        tail = await self._asked(self._feed.tail())
        if tail is not None and ahead > tail:
            return False
        try:
            await self._asked(self._feed.fetch(ahead))
        except HistoryLost:
            return False
        return True

    async def _catch_up(self, after: Position) -> None:
        """Send what came after `after`, then join those to whom the fan-out sends."""
        while self._ending is None:
            here = self._feed.here
            if after.epoch == here.epoch and after.offset >= here.offset:
                self._after = after.offset  # no await from the test on: nothing comes between
                self._feed.join(self)
                return
            events = await self._history(after)
            if events:
                await self._replay(events)
                after = Position(after.epoch, events[-1].offset)
            elif self._ending is None:
                after = await self._lose()

    async def _history(self, after: Position) -> Sequence[Published]:
        """Return the next events after `after`; none when they are lost, or the stream ends."""
        if after.epoch != self._feed.here.epoch:
            return ()
        recent = self._feed.recent(after.offset, _REPLAY)
        if recent is not None:
            return recent
        try:
            return await self._asked(self._feed.fetch(after)) or ()
        except HistoryLost:
            return ()

    async def _asked(self, answer: "asyncio.Future[T]") -> T | None:
        """Wait for what the bus says, beside the client; None when the stream is to end."""
        wake = self._connection.wake

        def on_done(_: object) -> None:
            wake()

        answer.add_done_callback(on_done)
        try:
            while not answer.done() and self._ending is None:
                if not await self._watch(is_ready=False):
                    raise Gone
                self._speak()
                await self._connection.settle()
        finally:
            answer.remove_done_callback(on_done)
        if answer.cancelled():  # the hub is closed
            self.end("drain")
        return answer.result() if answer.done() and not answer.cancelled() else None

    async def _replay(self, events: Sequence[Published]) -> None:
        payloads: list[Any] = []
        for event in events:
            payload = self._payload(event) if event.topic in self.topics else None
            if payload is not None:
                payloads.append(payload)
            if self._ending is not None:
                break
        self._feed.delivered += len(payloads)
        if not self._terms.wire.is_joinable:
            for payload in payloads:
                await self._connection.write(payload)
            return
        joined = b"".join(payloads)
        for at in range(0, len(joined), _REPLAY_BYTES):
            await self._connection.write(joined[at : at + _REPLAY_BYTES])

    async def _lose(self) -> Position:
        """Tell the client that it has to begin anew, and return from where."""
        here = self._feed.here
        await self._connection.write(_reset(self._terms.wire, here))
        return here

    async def _work_off(self) -> None:
        """Send what waits; when it returns and nothing ends the stream, nothing waits."""
        await self._connection.settle()
        while self._ending in (None, "finished"):
            payload = self._next_waiting()
            if payload is None:
                return
            await self._connection.write(payload)

    def _next_waiting(self) -> Any:
        if self._head is not None:
            payload, self._head = self._head, None
            return payload
        if self._backlog is None:
            return None
        gap = self._backlog.take_gap()
        if gap is not None:
            self._feed.tell_dropped(self._terms.name, gap.dropped)
            return _gap(self._terms.wire, gap)
        payload = self._backlog.take()
        if payload is not None:
            self._feed.delivered += 1
        return payload

    async def _say_goodbye(self, reason: str) -> None:
        """End the response early and politely; what waits comes when the client comes back."""
        wire = self._terms.wire
        if reason != "finished":
            event = "expired" if reason == "expired" else "drain"
            data, retry_ms = json.dumps({"reason": reason}), random.randint(*_COME_BACK_MS)
            await self._connection.write(wire.encode(event=event, data=data, retry_ms=retry_ms))
        await self._connection.write_message(wire.final(reason))

    async def _cut(self) -> None:
        """Tell the client that the stream failed, and leave the response without an end."""
        wire = self._terms.wire
        told = wire.encode(event="error", data='{"error":"the stream failed"}')
        await self._connection.cut(wire.message(told), *wire.cut)

    # -----------------------------------------------------------------------------------------

    def _push(self, payload: Any, now: float) -> None:
        if not self._connection.push(payload, now):
            self._is_ready = self._is_watching = False

    def _offer_one(self, event: Published, now: float) -> bool:
        if event.offset <= self._after or self._ending is not None:
            return False
        is_ready = self._is_ready
        payload = self._payload(event)  # may be the last one, and end it
        if payload is None:
            return False
        if is_ready:
            self._push(payload, now)
        else:
            self._keep(event, payload)
        return is_ready

    def _keep(self, event: Published, payload: Any) -> None:
        terms, backlog = self._terms, self._backlog
        if backlog is None:
            backlog = Backlog(terms.policy, terms.queue_frames, terms.queue_bytes)
            self._backlog = backlog
        dropped = backlog.dropped
        if not backlog.add(event, payload):
            self._connection.fail(Stalled())
        self._feed.dropped += backlog.dropped - dropped
        self._take_over()

    def _take_over(self) -> None:
        """Let the own task send, unless it does already."""
        if self._is_watching:
            self._is_watching = False
            self._connection.wake()

    def _payload(self, event: Published) -> Any:
        """Return what is sent for `event`, None for nothing."""
        terms = self._terms
        words = True if terms.filter is None else terms.filter(event)
        if terms.ends_on is not None and event.event == terms.ends_on:
            self.end("finished")
        if words is None or words is False:
            return None
        if words is not True and not isinstance(words, str):
            raise InvalidSetting(
                f"the filter of {terms.name} returned {type(words).__name__}; return True or "
                "False, or a str that takes the place of the data"
            )
        return event.frame(terms.wire, None if words is True else words)

    def _heed_deadline(self) -> None:
        """Let it end a little before the request's deadline, if one holds for the body, too."""
        left = remaining()
        if left is not None:
            at = asyncio.get_running_loop().time() + left - _BEFORE_DEADLINE
            if at < self._ends_at:
                self._ends_at, self._ends_because = at, "deadline"


def _reset(wire: Wire, position: Position) -> Any:
    return wire.encode(id=str(position), event="reset", data='{"reason":"history lost"}')


def _gap(wire: Wire, gap: Gap) -> Any:
    told = {"dropped": gap.dropped, "first": gap.first.id, "last": gap.last.id}
    return wire.encode(event="gap", data=json.dumps(told))
