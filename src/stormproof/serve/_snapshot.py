"""Snapshots: one worker's state at a glance, taken by a thread that needs nothing of the loop."""

import asyncio
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stormproof._core.asgi import ASGIApp, Message, Receive, Scope, Send
from stormproof._core.clock import MONOTONIC, Clock
from stormproof._core.events import Event, PhaseEntered
from stormproof._core.lifecycle import Lifecycle, Loss
from stormproof._core.place import innermost_place, waiting_place
from stormproof._core.primitives import Primitive, primitives

from ._jobs import JobsDesk

BEAT_INTERVAL = 0.1
"""Seconds between two heartbeats of the loop."""

_LAGS_KEPT = 100  # 10 s of heartbeats
_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSnapshot:
    """What one worker process says of itself.

    Attributes:
        pid: Its process id.
        grace: Seconds that its drain may take.
        phase: "starting", "ready", "draining" or "stopping"; "silent" when it did not answer.
        requests: Requests in flight.
        streams: Streams open, which are requests, too.
        losses: Things its drain has cut.
        beat_age: Seconds since its loop's last heartbeat; 0 before the loop ran.
        loop_lag: Seconds by which the latest of the last 100 heartbeats was late.
        responses: Responses begun, by class ("2xx"); websockets and lost ones are not counted.
        rss_bytes: Resident memory; 0 where the system does not tell.
        stuck_at: Where the loop's thread is, when the loop does not beat; else "".
        unready: Why it is not ready although it serves, such as a service that has given up.
        primitives: Its limits, pools and quotas with their counts.
        open: What a SIGTERM now would find, when it was asked for.
    """

    pid: int
    phase: str
    grace: float = 0.0
    requests: int = 0
    streams: int = 0
    losses: int = 0
    beat_age: float = 0.0
    loop_lag: float = 0.0
    responses: Mapping[str, int] = field(default_factory=dict)
    rss_bytes: int = 0
    stuck_at: str = ""
    unready: Sequence[str] = ()
    primitives: Sequence[Primitive] = ()
    open: Sequence[Loss] = ()

    def to_json(self) -> str:
        """Return this on one line, as `from_json` reads it."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "WorkerSnapshot":
        """Read what `to_json` wrote.

        Raises:
            ValueError: It is no such text.
        """
        try:
            values = json.loads(text)
            values["open"] = tuple(Loss(**item) for item in values["open"])
            values["unready"] = tuple(values["unready"])
            values["primitives"] = tuple(Primitive(**item) for item in values["primitives"])
            return cls(**values)
        except (TypeError, KeyError) as exc:
            raise ValueError(f"no snapshot of a worker: {exc}") from exc


class Observer:
    """Watches one worker from within: heartbeats of its loop, responses, what is open.

    To be made before the service starts; `snapshot` may then be called from any thread.

    Args:
        lifecycle: Of the service that is watched.
        parts: Its parts; one with a method `rehearse` names its own tasks (a mapping of each
            task to what would be lost of it).
        clock: Where the time is read.

    Attributes:
        jobs: Answers questions about the jobs of its parts.
    """

    def __init__(
        self, lifecycle: Lifecycle, *, parts: Sequence[object] = (), clock: Clock = MONOTONIC
    ) -> None:
        self._lifecycle = lifecycle
        self._parts = tuple(parts)
        self._clock = clock
        self.jobs = JobsDesk(self._parts, lambda: self._loop)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_id = 0
        self._beat_at = 0.0
        self._lags = [0.0] * _LAGS_KEPT
        self._beats = 0
        self._responses = dict.fromkeys(_CLASSES, 0)
        self._unsubscribe = lifecycle.events.subscribe(self._on_event)

    def close(self) -> None:
        """Watch no longer; heartbeats end with the loop."""
        self._unsubscribe()
        self._loop = None

    def counting(self, app: ASGIApp) -> ASGIApp:
        """Return `app` with its responses counted."""
        responses = self._responses

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return

            async def counting_send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    responses[_CLASSES[message["status"] // 100 - 1]] += 1
                await send(message)

            await app(scope, receive, counting_send)

        return counted

    def snapshot(self, *, with_open: bool = False) -> WorkerSnapshot:
        """Return the state now; `with_open` also names each open request, stream and task."""
        # Sets and dictionaries are copied in one step, so the loop may change them meanwhile.
        age = self._beat_age()
        return WorkerSnapshot(
            pid=os.getpid(),
            phase=self._lifecycle.phase.value,
            grace=self._lifecycle.grace,
            requests=len(self._lifecycle.requests),
            streams=len(self._lifecycle.streams),
            losses=len(self._lifecycle.losses),
            beat_age=age,
            loop_lag=max(max(self._lags), age - BEAT_INTERVAL),
            responses=dict(self._responses),
            rss_bytes=_rss_bytes(),
            stuck_at=self._place_of_loop() if age > 10 * BEAT_INTERVAL else "",
            unready=tuple(
                f"{name}: {reason}" for name, reason in self._lifecycle.unready.copy().items()
            ),
            primitives=tuple(primitives()),
            open=self._open() if with_open else (),
        )

    def _on_event(self, event: Event) -> None:
        if isinstance(event, PhaseEntered) and event.phase == "ready":
            self._loop = asyncio.get_running_loop()
            self._thread_id = threading.get_ident()
            self._beat_at = self._clock.now()
            self._loop.call_later(BEAT_INTERVAL, self._beat)

    def _beat(self) -> None:
        if self._loop is None:
            return
        now = self._clock.now()
        self._lags[self._beats % _LAGS_KEPT] = max(0.0, now - self._beat_at - BEAT_INTERVAL)
        self._beats += 1
        self._beat_at = now
        self._loop.call_later(BEAT_INTERVAL, self._beat)

    def _beat_age(self) -> float:
        loop = self._loop
        if loop is None or loop.is_closed():
            return 0.0
        return max(0.0, self._clock.now() - self._beat_at)

    def _place_of_loop(self) -> str:
        frame = sys._current_frames().get(self._thread_id)
        return "" if frame is None else innermost_place(frame)

    def _open(self) -> tuple[Loss, ...]:
        now = self._lifecycle.clock.now()
        requests = tuple(self._lifecycle.requests)
        found = [
            Loss("request", entry.name, now - entry.started_at, _place(entry.task))
            for entry in requests
        ]
        found += [
            Loss("stream", place.name, now - place.started_at)
            for place in tuple(self._lifecycle.streams)
        ]
        held = {entry.task for entry in requests}
        for part in self._parts:
            rehearse: Callable[[], Mapping[asyncio.Task[Any], Loss]] | None
            rehearse = getattr(part, "rehearse", None)
            if callable(rehearse):
                losses = rehearse()
                found += losses.values()
                held |= losses.keys()
        found += [
            Loss("other", task.get_name(), 0.0, _place(task))
            for task in self._tasks()
            if task not in held and not _is_servers_own(task)
        ]
        return tuple(sorted(found, key=lambda loss: -loss.age))

    def _tasks(self) -> "set[asyncio.Task[Any]]":
        loop = self._loop
        return set() if loop is None else asyncio.all_tasks(loop)


def _place(task: "asyncio.Task[Any] | None") -> str:
    return "" if task is None else waiting_place(task)


_OWN_PACKAGES = ("/uvicorn/", "/stormproof/", "/starlette/")


def _is_servers_own(task: "asyncio.Task[Any]") -> bool:
    """Whether the task runs the server or this library, not the application."""
    code = getattr(task.get_coro(), "cr_code", None)
    file = getattr(code, "co_filename", "").replace(os.sep, "/")
    return any(f"site-packages{package}" in file for package in _OWN_PACKAGES) or (
        file.startswith(str(Path(__file__).parents[1]))
    )


def _rss_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
