"""What the tests of deadlines share: a loop with virtual time, and a recording ASGI server."""

import asyncio
import json
import selectors
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from stormproof._core.events import Event, Events
from stormproof.deadline import DEADLINE_KEY, DeadlineMiddleware
from stormproof.deadline._expiries import Expiries


class _NoWait(selectors.DefaultSelector):
    """A selector that moves the loop's time on instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("nothing left to wait for: the test would hang")
        ready = super().select(0)
        if not ready:
            self.now += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose hours pass in no time; its clock is `loop.time()`."""

    def __init__(self) -> None:
        self.virtual = _NoWait()
        super().__init__(self.virtual)

    def time(self) -> float:
        return self.virtual.now


class LoopClock:
    """The running loop's time as a clock."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()


def run_virtual(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` on a loop with virtual time; nothing may be left on the loop afterwards."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(_checked(main))


async def _checked(main: Coroutine[Any, Any, None]) -> None:
    await main
    assert asyncio.all_tasks() == {asyncio.current_task()}, "a task was left behind"
    timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    left = [timer for timer in timers if not (timer.cancelled() or _is_shared(timer))]
    assert left == [], "a timer was left behind"


def _is_shared(timer: asyncio.TimerHandle) -> bool:
    """Whether it is the one timer of all default deadlines, which stays set."""
    return isinstance(getattr(timer._callback, "__self__", None), Expiries)  # type: ignore[attr-defined]


@dataclass
class Client:
    """The server's side of one request: what was sent, and when (seconds from the start)."""

    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    path: str = "/slow"
    sent: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    seen: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.started_at = asyncio.get_running_loop().time()
        self.answered = asyncio.Event()
        self.left = asyncio.Event()
        self.events = Events()
        self.events.subscribe(self.seen.append)
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": self.headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }

    def wrap(self, app: Any, **settings: Any) -> DeadlineMiddleware:
        settings.setdefault("clock", LoopClock())
        return DeadlineMiddleware(app, events=self.events, **settings)

    async def call(self, app: Any, **settings: Any) -> None:
        await self.wrap(app, **settings)(self.scope, self.receive, self.send)

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(dict(message))
        self.times.append(self.elapsed())
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.answered.set()

    async def expire(self) -> None:
        """Let the deadline of the running request pass now, on the real clock."""
        self.scope[DEADLINE_KEY].shorten_to(0)
        for _ in range(20):
            await asyncio.sleep(0)

    def elapsed(self) -> float:
        return round(asyncio.get_running_loop().time() - self.started_at, 3)

    @property
    def statuses(self) -> list[int]:
        return [message["status"] for message in self.sent if "status" in message]

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def is_whole(self) -> bool:
        """Whether a last body message was sent, once, and nothing after it."""
        ends = [m for m in self.sent if "status" not in m and not m.get("more_body")]
        return len(ends) == 1 and ends[0] is self.sent[-1]

    @property
    def problem(self) -> Any:
        return json.loads(self.body)


async def start(send: Any, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})


async def chunk(send: Any, body: bytes = b"x", *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def answer(send: Any, body: bytes = b"ok", status: int = 200) -> None:
    await start(send, status)
    await chunk(send, body, more=False)
