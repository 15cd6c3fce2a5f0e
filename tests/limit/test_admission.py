"""Admission: who is let into the app, when the slot comes back, and nobody works for the gone."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from stormproof._core.asgi import Message, Receive, Scope, Send
from stormproof._core.events import Event, Events
from stormproof.errors import InvalidSetting
from stormproof.limit import Adaptive, Admission, AdmissionMiddleware, AdmissionRule, Limiter
from tests.virtual_time import run_virtually, ticks

App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass
class Client:
    """One request by hand: what it sends, what it was sent, and whether it is still there."""

    method: str = "GET"
    path: str = "/"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: list[bytes] = field(default_factory=lambda: [b""])
    sent: list[Message] = field(default_factory=list)
    received: int = 0

    def __post_init__(self) -> None:
        self.gone = asyncio.Event()

    async def receive(self) -> Message:
        self.received += 1
        if not self.gone.is_set() and self.body:
            chunk = self.body.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(self.body)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def ask(self, app: App) -> "asyncio.Task[None]":
        scope = {
            "type": "http",
            "method": self.method,
            "path": self.path,
            "headers": self.headers,
        }

        async def serve() -> None:
            await app(scope, self.receive, self.send)

        return asyncio.create_task(serve())

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None


class Handler:
    """An app that notes who came and answers when it is told to."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.cancelled = 0
        self.answer = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        try:
            await self.answer.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        await respond(send)


async def respond(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})


def guarded(app: App, admission: Admission | Limiter, **options: Any) -> AdmissionMiddleware:
    if isinstance(admission, Limiter):
        admission = Admission(admission)
    return AdmissionMiddleware(app, admission=admission, **options)


async def test_a_request_without_a_slot_is_answered_before_the_app_sees_it() -> None:
    limiter, handler = Limiter(1, max_wait=0, name="http"), Handler()
    app = guarded(handler, limiter)
    first, second = Client(), Client(body=[b"never read"])
    serving = first.ask(app)
    await ticks()
    await second.ask(app)
    head, body = second.sent
    headers = dict(head["headers"])
    assert (head["status"], headers[b"retry-after"]) == (503, b"1")
    assert headers[b"content-type"] == b"application/problem+json"
    assert json.loads(body["body"])["code"] == "SP201"
    assert (handler.paths, second.received) == (["/"], 0)
    handler.answer.set()
    await serving
    assert (first.status, limiter.statistics().in_use) == (200, 0)


def test_retry_after_is_what_the_queue_takes() -> None:
    async def main() -> None:
        limiter, handler = Limiter(1, max_wait=30.0), Handler()
        app = guarded(handler, limiter)
        clients = [Client() for _ in range(12)]
        tasks = [client.ask(app) for client in clients]
        await ticks()
        assert clients[11].status == 503
        assert dict(clients[11].sent[0]["headers"])[b"retry-after"] == b"33"
        handler.answer.set()
        await asyncio.gather(*tasks)

    run_virtually(main())


async def test_rules_exempt_health_and_choose_limiter_and_priority() -> None:
    reports = Limiter(1, max_wait=0)
    admission = Admission(
        Limiter(1, max_wait=0),
        rules=[
            AdmissionRule(prefix="/reports", limiter=reports, priority=1),
            AdmissionRule(prefix="/reports/static", is_exempt=True),
        ],
    )
    handler = Handler()
    app = guarded(handler, admission)
    holders = [Client(path=path).ask(app) for path in ("/", "/reports/7")]
    await ticks()
    asked = {
        path: Client(path=path)
        for path in ("/livez", "/readyz", "/reports/static/a", "/reports", "/reports-old", "/x")
    }
    tasks = [client.ask(app) for client in asked.values()]
    await ticks()
    handler.answer.set()
    await asyncio.gather(*holders, *tasks)
    refused = {path for path, client in asked.items() if client.status == 503}
    assert refused == {"/reports", "/reports-old", "/x"}


async def test_without_a_limiter_for_all_only_a_rule_gives_one() -> None:
    own = Limiter(1, max_wait=0)
    own.close()
    rules = [
        AdmissionRule(prefix="/query", limiter=own),
        AdmissionRule(prefix="/query/free", priority=1),
    ]
    handler = Handler()
    handler.answer.set()
    app = guarded(handler, Admission(rules=rules))
    clients = [Client(path=path) for path in ("/query", "/query/free", "/")]
    await asyncio.gather(*(client.ask(app) for client in clients))
    assert [client.status for client in clients] == [503, 200, 200]


async def test_keys_are_read_from_the_scope() -> None:
    def tenant(scope: Scope) -> str:
        return str(dict(scope["headers"]).get(b"x-tenant", b""), "ascii")

    limiter, handler = Limiter(3, per_key=1, max_wait=0), Handler()
    app = guarded(handler, Admission(limiter, key=tenant))
    clients = [Client(headers=[(b"x-tenant", name)]) for name in (b"a", b"a", b"b")]
    tasks = [client.ask(app) for client in clients]
    await ticks()
    handler.answer.set()
    await asyncio.gather(*tasks)
    assert [client.status for client in clients] == [200, 503, 200]


async def test_websockets_and_the_lifespan_pass_without_a_slot() -> None:
    seen = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    limiter = Limiter(1, max_wait=0)
    app = guarded(inner, limiter)
    async with limiter.slot():
        for kind in ("websocket", "lifespan"):
            await app({"type": kind}, Client().receive, Client().send)
    assert seen == ["websocket", "lifespan"]


async def test_the_slot_comes_back_at_the_last_byte_and_not_after_background_tasks() -> None:
    limiter, chunk, ended = Limiter(1), asyncio.Event(), asyncio.Event()

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await chunk.wait()
        await send({"type": "http.response.body", "body": b"b"})
        await ended.wait()

    serving = Client().ask(guarded(inner, limiter))
    await ticks()
    assert limiter.statistics().in_use == 1
    chunk.set()
    await ticks()
    assert limiter.statistics().in_use == 0
    ended.set()
    await serving
    assert limiter.statistics().in_use == 0


async def test_an_event_stream_gives_its_slot_back_at_its_first_byte() -> None:
    limiter, never = Limiter(1), asyncio.Event()

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"Content-Type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await never.wait()

    serving = Client().ask(guarded(inner, limiter))
    await ticks()
    assert limiter.statistics().in_use == 0
    never.set()
    await serving
    assert limiter.statistics().in_use == 0


@pytest.mark.parametrize("error", [ValueError("x"), asyncio.CancelledError()])
async def test_the_slot_comes_back_when_the_app_fails(error: BaseException) -> None:
    limiter = Limiter(1)

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    with pytest.raises(type(error)):
        await guarded(inner, limiter)(
            {"type": "http", "method": "GET", "path": "/", "headers": []},
            Client().receive,
            Client().send,
        )
    assert limiter.statistics().in_use == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_app_is_not_called_for_a_client_that_left_while_it_waited(method: str) -> None:
    async def main() -> None:
        limiter, handler = Limiter(1), Handler()
        app = guarded(handler, limiter)
        first = Client()
        gone = Client(method, "/gone", [(b"content-length", b"3")] * (method == "POST"), [b"abc"])
        tasks = [first.ask(app), gone.ask(app)]
        await asyncio.sleep(0.1)
        gone.gone.set()
        handler.answer.set()
        await asyncio.gather(*tasks)
        assert handler.paths == ["/"]
        assert (gone.status, limiter.statistics().in_use) == (None, 0)

    run_virtually(main())


def test_the_body_reaches_the_app_whole_and_in_order_after_a_wait() -> None:
    async def main() -> None:
        limiter, bodies = Limiter(1), list[bytes]()

        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            body = b""
            while True:
                message = await receive()
                body += message["body"]
                if not message["more_body"]:
                    break
            bodies.append(body)
            await asyncio.sleep(0.2)
            await respond(send)

        app = guarded(inner, limiter)
        headers = [(b"content-length", b"6")]
        clients = [Client("GET", "/", headers, [b"ab", b"cd", b"ef"]) for _ in range(3)]
        await asyncio.gather(*(client.ask(app) for client in clients))
        assert bodies == [b"abcdef"] * 3
        assert [client.status for client in clients] == [200] * 3

    run_virtually(main())


def test_a_reading_handler_is_cancelled_when_its_client_leaves() -> None:
    async def main() -> None:
        limiter, handler = Limiter(1), Handler()
        client = Client()
        serving = client.ask(guarded(handler, limiter))
        await asyncio.sleep(0.3)
        client.gone.set()
        await serving  # ends without an exception: the cancellation was ours
        assert (handler.cancelled, limiter.statistics().in_use) == (1, 0)
        assert asyncio.current_task() is not None
        assert serving.cancelling() == 0

    run_virtually(main())


@pytest.mark.parametrize(
    ("client", "options"),
    [
        (lambda: Client("POST"), {}),
        (lambda: Client("GET"), {"may_cancel": lambda task: False}),
    ],
)
def test_a_handler_that_should_not_be_cancelled_is_left_alone(
    client: Callable[[], Client], options: dict[str, Any]
) -> None:
    async def main() -> None:
        limiter, handler, who = Limiter(1), Handler(), client()
        serving = who.ask(guarded(handler, limiter, **options))
        await asyncio.sleep(0.3)
        who.gone.set()
        await ticks()
        assert not serving.done()
        handler.answer.set()
        await serving
        assert (handler.cancelled, who.status) == (0, 200)

    run_virtually(main())


def test_an_app_that_listens_for_the_disconnect_itself_is_told_and_not_cancelled() -> None:
    async def main() -> None:
        told = list[str]()

        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            for _ in range(3):
                told.append((await receive())["type"])
            await respond(send)

        client = Client()
        serving = client.ask(guarded(inner, Limiter(1)))
        await asyncio.sleep(0.3)
        client.gone.set()
        await serving
        assert told == ["http.request", "http.disconnect", "http.disconnect"]

    run_virtually(main())


def test_an_app_that_waits_for_news_is_never_robbed_of_them() -> None:
    """Servers that hand each message to one receiver only: two at once would steal."""

    async def main() -> None:
        told, receiving, most = list[str](), 0, 0
        gone = asyncio.Event()

        async def receive() -> Message:
            nonlocal receiving, most
            receiving += 1
            most = max(most, receiving)
            try:
                if not told:
                    return {"type": "http.request", "body": b"", "more_body": False}
                await gone.wait()
                return {"type": "http.disconnect"}
            finally:
                receiving -= 1

        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            told.append((await receive())["type"])
            told.append((await receive())["type"])
            await respond(send)

        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        client = Client()
        serving = asyncio.ensure_future(guarded(inner, Limiter(1))(scope, receive, client.send))
        await asyncio.sleep(0.3)
        gone.set()
        await serving
        assert (told, most) == (["http.request", "http.disconnect"], 1)

    run_virtually(main())


def test_a_clean_up_after_another_cancellation_is_not_hit_when_the_client_leaves() -> None:
    async def main() -> None:
        cleaned = list[str]()

        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await asyncio.sleep(9.0)
            finally:
                await asyncio.sleep(0.2)
                cleaned.append("up")

        client = Client()
        serving = client.ask(guarded(inner, Limiter(1)))
        await asyncio.sleep(0.3)
        serving.cancel()
        await asyncio.sleep(0.1)
        client.gone.set()
        await asyncio.gather(serving, return_exceptions=True)
        assert (cleaned, serving.cancelled()) == (["up"], True)

    run_virtually(main())


@pytest.mark.parametrize("tick", range(8))
def test_a_foreign_cancellation_goes_on_also_beside_ours(tick: int) -> None:
    async def main() -> None:
        limiter, handler, client = Limiter(1), Handler(), Client()
        serving = client.ask(guarded(handler, limiter))
        await asyncio.sleep(0.3)
        client.gone.set()
        await ticks(tick)
        is_told = serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        assert serving.cancelled() == is_told
        assert limiter.statistics().in_use == 0

    run_virtually(main())


@pytest.mark.parametrize("tick", range(12))
async def test_no_slot_is_lost_when_a_request_is_cancelled_at_any_tick(tick: int) -> None:
    limiter, handler = Limiter(1), Handler()
    app = guarded(handler, limiter)
    tasks = [Client().ask(app) for _ in range(3)]
    handler.answer.set()
    await ticks(tick)
    for task in tasks[1:]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (limiter.statistics().in_use, limiter.statistics().waiting) == (0, 0)


async def test_an_adaptive_limiter_learns_from_requests_and_reports_refusals() -> None:
    events, heard = Events(), list[Event]()
    events.subscribe(heard.append)
    adaptive, handler = Adaptive(0.5, start=1, max_wait=0), Handler()
    admission = Admission(adaptive)
    admission.report_to(events)
    app = guarded(handler, admission)
    first, second = Client(), Client()
    tasks = [first.ask(app), second.ask(app)]
    await ticks()
    handler.answer.set()
    await asyncio.gather(*tasks)
    assert (first.status, second.status, len(heard)) == (200, 503, 1)
    assert adaptive.capacity == 2


def test_a_bad_rule_is_refused() -> None:
    with pytest.raises(InvalidSetting, match=r"^AdmissionRule\(prefix="):
        AdmissionRule(prefix="reports")
    with pytest.raises(InvalidSetting, match=r"^AdmissionRule\(priority="):
        AdmissionRule(prefix="/reports", priority=-1)
