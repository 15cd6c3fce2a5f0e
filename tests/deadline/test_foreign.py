"""Cancellations that are not the deadline's go through it, at every moment, and leave nothing."""

import asyncio
import gc
import math
from typing import Any

import pytest

from .stage import Client, answer, chunk, run_virtual, start


async def obedient(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(math.inf)


async def slow_to_end(scope: Any, receive: Any, send: Any) -> None:
    try:
        await asyncio.sleep(math.inf)
    finally:
        await asyncio.sleep(0.5)


async def deaf(scope: Any, receive: Any, send: Any) -> None:
    try:
        await asyncio.sleep(math.inf)
    except asyncio.CancelledError:
        await asyncio.sleep(0.5)
    await answer(send)


async def own_answer(scope: Any, receive: Any, send: Any) -> None:
    try:
        await asyncio.sleep(math.inf)
    except asyncio.CancelledError:
        await asyncio.sleep(0.01)
        await answer(send, b"own")


async def streaming(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0.95)
    await start(send)
    for _ in range(20):
        await chunk(send)
        await asyncio.sleep(0.01)
    await chunk(send, more=False)


HANDLERS = [obedient, slow_to_end, deaf, own_answer, streaming]


@pytest.mark.parametrize("app", HANDLERS)
def test_cancelled_at_every_moment_there_is_one_answer_and_nothing_left(app: Any) -> None:
    async def main() -> None:
        for step in range(130):
            client = Client([(b"x-request-timeout", b"1")] if step % 2 else [])
            task = asyncio.create_task(client.call(app, default=1.0))
            await asyncio.sleep(0.94 + step / 200)
            was_done = task.done()
            task.cancel()
            await asyncio.wait([task])
            if not was_done and app is not deaf and app is not own_answer:
                assert task.cancelled(), step
            starts = [m for m in client.sent if m["type"] == "http.response.start"]
            assert len(starts) <= 1, step
            last = [m for m in client.sent if m.get("more_body") is False]
            assert len(last) <= 1, step

    run_virtual(main())


def test_a_foreign_cancellation_before_the_deadline_is_raised_and_not_answered() -> None:
    async def main() -> None:
        client = Client()
        task = asyncio.create_task(client.call(obedient, default=1.0))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (client.sent, client.seen) == ([], [])

    run_virtual(main())


def test_a_foreign_cancellation_at_the_same_tick_wins() -> None:
    async def main() -> None:
        client = Client()
        task = asyncio.create_task(client.call(obedient, default=1.0))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_at(asyncio.get_running_loop().time() + 1.0, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (client.sent, task.cancelling()) == ([], 1)

    run_virtual(main())


def test_a_foreign_cancellation_stops_a_504_that_the_client_does_not_read() -> None:
    async def main() -> None:
        class Stalled(Client):
            async def send(self, message: Any) -> None:
                await super().send(message)
                await asyncio.sleep(math.inf)

        for app in (obedient, slow_to_end):
            client = Stalled()
            task = asyncio.create_task(client.call(app, default=1.0))
            await asyncio.sleep(1.1)
            assert client.statuses == [504]
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

    run_virtual(main())


def test_a_timeout_around_the_middleware_still_works() -> None:
    async def main() -> None:
        for limit in (0.5, 1.0, 1.2):
            client = Client()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(limit):
                    await client.call(slow_to_end, default=1.0)
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]

    run_virtual(main())


def test_requests_of_every_kind_leave_no_task_and_no_timer() -> None:
    async def main() -> None:
        clients = [Client(path=f"/{n}") for n in range(200)]
        calls = [c.call(HANDLERS[n % 5], default=1.0) for n, c in enumerate(clients)]
        await asyncio.gather(*calls)
        assert [c.statuses for c in clients] == [[504], [504], [504], [200], [200]] * 40

    run_virtual(main())


@pytest.mark.parametrize("app", HANDLERS)
def test_a_request_leaves_no_garbage_for_the_collector(app: Any) -> None:
    async def main() -> None:
        await Client().call(app, default=1.0)
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                await Client().call(app, default=1.0)
            assert gc.collect() == 0
        finally:
            gc.enable()

    run_virtual(main())
