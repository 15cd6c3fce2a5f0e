"""Jobs at the admin listener: looked at by anybody, changed only when that is allowed."""

import asyncio
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from stormproof._core.lifecycle import Lifecycle, Phase
from stormproof.serve._admin import AdminServer
from stormproof.serve._jobs import Ask
from stormproof.serve._link import Workforce, answer_on
from stormproof.serve._snapshot import Observer

JSON = "application/json"


class Kept:
    """The shape of `Jobs`."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def overview(self) -> dict[str, Any]:
        await self.may_answer.wait()
        return {"tasks": {"send": {"queued": 1}}}

    async def retry(self, *ids: int) -> int:
        self.calls.append(("retry", ids))
        return len(ids)

    async def cancel(self, *ids: int) -> int:
        self.calls.append(("cancel", ids))
        raise ConnectionError("the database is away")


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
async def observer(kept: Kept) -> AsyncIterator[Observer]:
    lifecycle = Lifecycle()
    observer = Observer(lifecycle, parts=[object(), kept])
    lifecycle.enter(Phase.READY)
    yield observer
    observer.close()


@pytest.fixture
def linked(observer: Observer) -> Iterator[Workforce]:
    """The parent of two workers, of which the first is silent."""
    workforce = Workforce()
    silent, deaf = socket.socketpair()
    ours, theirs = socket.socketpair()
    deaf.close()
    workforce.join(4, silent)
    workforce.join(5, ours)
    thread = answer_on(theirs, observer)
    yield workforce
    workforce.leave(4)
    workforce.leave(5)
    thread.join()


async def ask(
    jobs: Ask, method: str, path: str, body: Any = None, *, kind: str = JSON, **options: bool
) -> tuple[int, Any]:
    def send(url: str) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url + path, data, {"content-type": kind}, method=method)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    with AdminServer(lambda *, with_open: [], jobs=jobs, **options) as server:
        return await asyncio.to_thread(send, server.url)


async def test_they_may_be_looked_at_and_not_changed(observer: Observer, kept: Kept) -> None:
    status, shown = await ask(observer.jobs, "GET", "/jobs")
    assert (status, shown) == (200, [{"tasks": {"send": {"queued": 1}}}])
    status, told = await ask(observer.jobs, "POST", "/jobs/retry", {"ids": [7]})
    assert (status, told["detail"].endswith("--admin-jobs change")) == (403, True)
    assert (await ask(observer.jobs, "POST", "/jobs", {}))[0] == 405
    assert (await ask(observer.jobs, "GET", "/jobs/retry"))[0] == 405
    assert (await ask(lambda _: None, "GET", "/jobs"))[0] == 404
    assert kept.calls == []


async def test_they_are_changed_when_that_is_allowed_but_by_no_form(
    observer: Observer, kept: Kept
) -> None:
    async def post(path: str, body: Any, kind: str = JSON) -> int:
        status, _ = await ask(observer.jobs, "POST", path, body, kind=kind, may_change_jobs=True)
        return status

    assert await post("/jobs/retry", {"ids": [7, 8]}) == 200
    assert await post("/jobs/cancel", {"ids": [7]}) == 503
    assert kept.calls == [("retry", (7, 8)), ("cancel", (7,))]
    assert await post("/jobs/retry", {"ids": [7]}, "text/plain") == 415
    for nonsense in ({}, [], {"ids": "7"}, {"ids": [True]}, {"ids": []}, {"ids": ["7"]}):
        assert await post("/jobs/retry", nonsense) == 422
    assert await post("/jobs/retry", {"ids": [1] * 40_000}) == 413
    assert len(kept.calls) == 2


async def test_a_worker_under_a_parent_answers_while_its_database_does_not(
    linked: Workforce, kept: Kept
) -> None:
    status, shown = await ask(linked.jobs, "GET", "/jobs")
    assert (status, shown) == (200, [{"tasks": {"send": {"queued": 1}}}])
    kept.may_answer.clear()
    status, told = await ask(linked.jobs, "GET", "/jobs")
    assert (status, told["detail"]) == (503, "the jobs did not answer within 0.5 s")
    phases = await asyncio.to_thread(lambda: [one.phase for one in linked(with_open=False)])
    assert phases == ["starting", "ready", "gone"]
    kept.may_answer.set()


async def test_a_stuck_loop_is_said(observer: Observer) -> None:
    told: list[Any] = []
    thread = threading.Thread(
        target=lambda: told.append(json.loads(observer.jobs(b'{"verb": "overview"}') or b""))
    )
    thread.start()
    thread.join()  # the loop stands still here
    assert told[0]["status"] == 503
