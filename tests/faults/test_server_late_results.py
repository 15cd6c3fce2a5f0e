"""A timeout whose time is over must not give a result, however late the work gave one."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException

import stormproof
from stormproof.deadline import deadline
from tests.faults.in_process import served
from tests.harness import request

TIMEOUT = 0.1

Operation = Callable[[], Coroutine[Any, Any, dict[str, bool]]]


class SlowToLeave:
    """An operation that is cancelled, is slow to clean up, and then returns its result."""

    def __init__(self) -> None:
        self.cleaned_up = asyncio.Event()

    async def __call__(self) -> dict[str, bool]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await self.cleaned_up.wait()
        return {"late": True}


async def with_wait_for(operation: Operation) -> dict[str, bool]:
    return await asyncio.wait_for(operation(), timeout=TIMEOUT)


async def with_timeout_block(operation: Operation) -> dict[str, bool]:
    async with asyncio.timeout(TIMEOUT):
        return await operation()


async def with_deadline(operation: Operation) -> dict[str, bool]:
    async with deadline(TIMEOUT):
        return await operation()


async def check_late_result_is_a_timeout(
    limited: Callable[[Operation], Awaitable[dict[str, bool]]],
) -> None:
    operation = SlowToLeave()
    asyncio.get_running_loop().call_later(TIMEOUT * 2, operation.cleaned_up.set)
    try:
        result = await limited(operation)
    except TimeoutError:
        return
    raise AssertionError(f"a result came back after the timeout: {result}")


async def test_deadline_block_raises_when_the_result_is_late() -> None:
    await check_late_result_is_a_timeout(with_deadline)


@pytest.mark.parametrize("limited", [with_wait_for, with_timeout_block])
async def test_seed_timeouts_return_a_late_result(
    limited: Callable[[Operation], Awaitable[dict[str, bool]]],
) -> None:
    """`wait_for` and `asyncio.timeout` cancel once and take what then comes for an answer."""
    with pytest.raises(AssertionError, match="a result came back after the timeout"):
        await check_late_result_is_a_timeout(limited)


def post(operation: Operation) -> FastAPI:
    app = FastAPI()

    @app.get("/slow")
    async def slow() -> dict[str, bool]:
        try:
            return await asyncio.wait_for(operation(), timeout=TIMEOUT)
        except asyncio.TimeoutError:  # noqa: UP041 - as the post wrote it
            raise HTTPException(408, "Request timeout")  # noqa: B904 - as the post wrote it

    return app


def ours(operation: "SlowToLeave") -> FastAPI:
    app = FastAPI()
    app.add_api_route(
        "/slow", operation.__call__, dependencies=[stormproof.route_deadline(TIMEOUT)]
    )
    stormproof.install(app, prestop=0.0)
    return app


async def check_answer_leaves_before_the_clean_up(port: int, operation: SlowToLeave) -> None:
    try:
        answer = await request(port, "GET", "/slow", timeout=1.5)
        assert answer.ended != "timed_out", "no answer left before the operation had cleaned up"
        assert answer.status == 504
    finally:
        operation.cleaned_up.set()


async def test_504_leaves_while_the_cancelled_handler_cleans_up() -> None:
    """The 504 is not the handler's to send, so it does not wait for it."""
    operation = SlowToLeave()
    async with served(ours(operation)) as port:
        await check_answer_leaves_before_the_clean_up(port, operation)


async def test_seed_answer_waits_for_the_clean_up() -> None:
    """`wait_for` awaits what it has cancelled, however long that takes."""
    operation = SlowToLeave()
    async with served(post(operation)) as port:
        with pytest.raises(AssertionError, match="no answer left before"):
            await check_answer_leaves_before_the_clean_up(port, operation)
