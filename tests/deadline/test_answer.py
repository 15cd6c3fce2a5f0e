"""Before the response has started: the 504 leaves in time, once, whatever the handler does."""

import asyncio
import math
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Route

from stormproof._core.events import DeadlineExpired, OverdueFinished
from stormproof._core.lifecycle import Lifecycle
from stormproof.deadline import DeadlineMiddleware, limit_request, remaining
from stormproof.errors import InvalidSetting

from .stage import Client, LoopClock, answer, chunk, run_virtual, start


def test_a_handler_in_time_answers_as_if_nothing_were_there() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.9)
        await answer(send)

    async def main() -> None:
        client = Client()
        await client.call(app, default=1.0)
        assert (client.statuses, client.body, client.seen) == ([200], b"ok", [])

    run_virtual(main())


def test_other_scopes_pass_through() -> None:
    async def main() -> None:
        seen: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append((scope, remaining()))

        for kind in ("websocket", "lifespan"):
            await DeadlineMiddleware(app)({"type": kind}, None, None)  # type: ignore[arg-type]
        assert seen == [({"type": "websocket"}, None), ({"type": "lifespan"}, None)]

    run_virtual(main())


@pytest.mark.parametrize(
    ("default", "header", "expected"),
    [
        (3.0, None, 3.0),
        (3.0, b"1.25", 1.25),
        (3.0, b"60", 3.0),
        (None, b"7", 7.0),
        (None, None, None),
    ],
)
def test_the_handler_sees_the_smaller_of_header_and_default(
    default: float | None, header: bytes | None, expected: float | None
) -> None:
    async def main() -> None:
        seen: list[float | None] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(remaining())
            await answer(send)

        client = Client([(b"x-request-timeout", header)] if header else [])
        await client.call(app, default=default)
        assert seen == [expected]
        assert remaining() is None

    run_virtual(main())


@pytest.mark.parametrize(
    "text", [b"abc", b"-1", b"0", b"nan", b"inf", b"1e999", b"", b"1_0", b"1 s", b"\xb2", b"\xff"]
)
def test_a_malformed_header_is_400_and_nothing_runs(text: bytes) -> None:
    async def main() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            raise AssertionError("must not run")

        client = Client([(b"x-request-timeout", text)])
        await client.call(app)
        assert client.statuses == [400]
        assert client.problem["code"] == "SP108"
        assert "X-Request-Timeout" in client.problem["detail"]

    run_virtual(main())


def test_a_handler_that_lets_itself_be_cancelled_is_answered_504_at_the_deadline() -> None:
    async def main() -> None:
        cleaned: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                await asyncio.sleep(math.inf)
            finally:
                cleaned.append("up")

        client = Client()
        await client.call(app, default=1.0)
        assert (client.statuses, client.times, client.is_whole) == ([504], [1.0, 1.0], True)
        assert client.problem["code"] == "SP301"
        assert client.problem["status"] == 504
        assert cleaned == ["up"]
        assert client.seen == [DeadlineExpired("GET /slow", 1.0, answered=True)]
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]

    run_virtual(main())


def test_a_handler_that_swallows_the_cancellation_is_answered_for_and_awaited() -> None:
    async def main() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                await asyncio.sleep(math.inf)
            except asyncio.CancelledError:
                await asyncio.sleep(5)
            await answer(send)

        client = Client()
        await client.call(app, default=1.0, answer_grace=0.02)
        assert (client.statuses, client.times) == ([504], [1.02, 1.02])
        assert client.is_whole
        assert client.elapsed() == 6.0
        expired, finished = client.seen
        assert expired == DeadlineExpired("GET /slow", 1.0, answered=True)
        assert isinstance(finished, OverdueFinished)
        assert finished.late == pytest.approx(5.0)
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]

    run_virtual(main())


def test_an_overdue_request_stays_in_flight_until_its_handler_ends() -> None:
    async def main() -> None:
        lifecycle = Lifecycle()
        release = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                await asyncio.sleep(math.inf)
            finally:
                await release.wait()

        client = Client()

        async def serve() -> None:
            with lifecycle.request(client.scope):
                await client.call(app, default=1.0)

        task = asyncio.create_task(serve())
        await client.answered.wait()
        assert [request.name for request in lifecycle.requests] == ["GET /slow"]
        release.set()
        await task
        assert lifecycle.requests == set()

    run_virtual(main())


@pytest.mark.parametrize("cleanup", [0.0, 0.01])
def test_a_handlers_own_answer_within_the_grace_wins(cleanup: float) -> None:
    async def main() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                await asyncio.sleep(math.inf)
            except asyncio.CancelledError:
                await asyncio.sleep(cleanup)
                await answer(send, b"partial", 203)
                await asyncio.sleep(0.5)  # its background tasks are let alone

        client = Client()
        await client.call(app, default=1.0)
        assert (client.statuses, client.body, client.is_whole) == ([203], b"partial", True)
        assert client.seen[0] == DeadlineExpired("GET /slow", 1.0, answered=False)
        assert client.elapsed() == 1.5 + cleanup

    run_virtual(main())


def test_an_answer_begun_in_the_grace_but_not_ended_is_cut_when_the_caller_asked() -> None:
    async def main() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                await asyncio.sleep(math.inf)
            except asyncio.CancelledError:
                await start(send)
                await chunk(send, b"first")
                await asyncio.sleep(1)
                await chunk(send, b"last", more=False)

        client = Client([(b"x-request-timeout", b"1")])
        await client.call(app)
        assert (client.statuses, client.body, client.is_whole) == ([200], b"first", False)

        client = Client()
        await client.call(app, default=1.0)
        assert (client.statuses, client.body, client.is_whole) == ([200], b"firstlast", True)

    run_virtual(main())


def test_a_handler_that_fails_while_cleaning_up_is_504_and_its_error_is_seen() -> None:
    async def main() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                await asyncio.sleep(math.inf)
            finally:
                raise ConnectionError("rollback failed")

        client = Client()
        with pytest.raises(ConnectionError, match="rollback failed"):
            await client.call(app, default=1.0)
        assert (client.statuses, client.is_whole) == ([504], True)
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]

    run_virtual(main())


def test_a_timeout_of_the_handlers_own_is_not_taken_for_the_deadline() -> None:
    async def main() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            async with asyncio.timeout(0.5):
                await asyncio.sleep(math.inf)

        client = Client()
        with pytest.raises(TimeoutError):
            await client.call(app, default=1.0)
        assert (client.sent, client.seen) == ([], [])

    run_virtual(main())


def test_a_route_limit_counts_from_the_arrival() -> None:
    async def main() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(1)
            limit_request(scope, 1.5)
            limit_request(scope, 20)
            assert remaining() == pytest.approx(0.5)
            await asyncio.sleep(math.inf)

        client = Client()
        await client.call(app, default=30.0)
        assert (client.statuses, client.times[0]) == ([504], 1.5)

        async def late(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(2)
            limit_request(scope, 1.5)
            await asyncio.sleep(math.inf)

        client = Client()
        await client.call(late, default=None)
        assert (client.statuses, client.times[0]) == ([504], 2.0)

    run_virtual(main())


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf])
def test_a_route_limit_must_be_a_positive_number(seconds: float) -> None:
    with pytest.raises(InvalidSetting, match="seconds="):
        limit_request({"type": "http"}, seconds)


def test_a_route_limit_without_the_middleware_says_so() -> None:
    with pytest.raises(InvalidSetting, match="DeadlineMiddleware"):
        limit_request({"type": "http", "method": "GET", "path": "/"}, 1.0)


@pytest.mark.parametrize(
    "settings", [{"default": 0}, {"default": math.nan}, {"default": math.inf}, {"answer_grace": -1}]
)
def test_settings_that_make_no_sense_are_refused_by_name(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(settings))):
        DeadlineMiddleware(None, **settings)  # type: ignore[arg-type]


def test_a_client_that_left_before_the_504_is_no_error() -> None:
    async def main() -> None:
        class Gone(Client):
            async def send(self, message: Any) -> None:
                raise OSError("client disconnected")

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(math.inf)

        client = Gone()
        await client.call(app, default=1.0)
        assert client.seen == [DeadlineExpired("GET /slow", 1.0, answered=False)]

    run_virtual(main())


def test_the_events_come_in_order_when_the_client_reads_slowly() -> None:
    async def main() -> None:
        class Slow(Client):
            async def send(self, message: Any) -> None:
                await asyncio.sleep(1)
                await super().send(message)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                await asyncio.sleep(math.inf)
            finally:
                await asyncio.sleep(0.5)

        client = Slow()
        await client.call(app, default=1.0)
        expired, finished = client.seen
        assert expired == DeadlineExpired("GET /slow", 1.0, answered=True)
        assert isinstance(finished, OverdueFinished)
        assert finished.late == pytest.approx(0.5)

    run_virtual(main())


def test_one_middleware_inside_another_gives_one_504() -> None:
    async def main() -> None:
        for inner, outer in ((1.0, 1.0), (1.0, 2.0), (2.0, 1.0), (1.0, 1.01)):

            async def stuck(scope: Any, receive: Any, send: Any) -> None:
                try:
                    await asyncio.sleep(math.inf)
                finally:
                    await asyncio.sleep(0.5)

            client = Client()
            app = client.wrap(stuck, default=inner)
            await client.call(app, default=outer)
            assert (client.statuses, client.is_whole) == ([504], True), (inner, outer)
            assert client.times[0] <= 1.02
            assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]

    run_virtual(main())


@pytest.mark.parametrize("group", [asyncio.TaskGroup, anyio.create_task_group])
def test_children_in_a_task_group_end_with_the_request(group: Any) -> None:
    async def main() -> None:
        ended: list[int] = []

        async def child(number: int) -> None:
            try:
                await asyncio.sleep(math.inf)
            finally:
                ended.append(number)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            async with group() as children:
                add = getattr(children, "start_soon", None)
                for number in range(3):
                    if add is not None:
                        add(child, number)
                    else:
                        children.create_task(child(number))

        client = Client()
        await client.call(app, default=1.0)
        assert (client.statuses, client.times[0], sorted(ended)) == ([504], 1.0, [0, 1, 2])
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]

    run_virtual(main())


@pytest.mark.parametrize("is_outside", [True, False])
def test_it_works_on_both_sides_of_a_base_http_middleware(is_outside: bool) -> None:
    async def main() -> None:
        async def endpoint(request: Any) -> None:
            await asyncio.sleep(math.inf)

        async def dispatch(request: Any, call_next: Any) -> Any:
            return await call_next(request)

        client = Client()
        mine = Middleware(DeadlineMiddleware, default=1.0, clock=LoopClock())
        other = Middleware(BaseHTTPMiddleware, dispatch=dispatch)
        app = Starlette(
            routes=[Route("/slow", endpoint)],
            middleware=[mine, other] if is_outside else [other, mine],
        )
        await app(client.scope, client.receive, client.send)
        assert (client.statuses, client.is_whole) == ([504], True)
        assert client.problem["code"] == "SP301"

    run_virtual(main())
