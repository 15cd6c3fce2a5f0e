"""The admin listener: it tells the truth also while the loop is stuck."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pytest

from stormproof._core.lifecycle import Lifecycle, Loss, Phase
from stormproof._core.primitives import Primitive
from stormproof.errors import InvalidSetting, PortInUse
from stormproof.serve._admin import AdminServer, live, metrics, parse_admin, ready, rehearsal
from stormproof.serve._link import WorkerLink, Workforce, answer_on
from stormproof.serve._snapshot import Observer, WorkerSnapshot
from stormproof.testing import HandClock
from tests.harness import request, until

SEARCH = Primitive("limiter", "search", {"in_use": 3, "refusals": {"queue": 2}})
CALM = WorkerSnapshot(
    pid=7,
    phase="ready",
    requests=3,
    streams=1,
    responses={"2xx": 40, "5xx": 2},
    rss_bytes=1000,
    primitives=(SEARCH,),
)
STUCK = WorkerSnapshot(pid=8, phase="ready", beat_age=4.25, loop_lag=4.15, stuck_at="a.py:3 in f")
GONE = WorkerSnapshot(pid=0, phase="gone", losses=1, responses={"2xx": 1_000_000})


class Watched:
    """A worker's lifecycle and its observer, in the test's own loop."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.lifecycle = Lifecycle()
        self.observer = Observer(self.lifecycle, clock=self.clock)


@pytest.fixture
def worker() -> Iterator[Watched]:
    watched = Watched()
    yield watched
    watched.observer.close()


@contextmanager
def admin(*workers: WorkerSnapshot) -> Iterator[int]:
    with AdminServer(lambda *, with_open: workers) as server:
        yield server.address[1]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9000", ("127.0.0.1", 9000)),
        ("0", ("127.0.0.1", 0)),
        ("10.0.0.5:9000", ("10.0.0.5", 9000)),
        ("[::1]:9000", ("::1", 9000)),
    ],
)
def test_admin_is_on_loopback_unless_asked_otherwise(text: str, address: tuple[str, int]) -> None:
    assert parse_admin(text) == address


@pytest.mark.parametrize("text", ["", "soon", "99999", "localhost:", "-1"])
def test_admin_address_that_is_none(text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"--admin must be PORT"):
        parse_admin(text)


def test_admin_port_in_use_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"127.0.0.1:{port}: .*; give another --admin"):
            AdminServer(lambda *, with_open: [], port=port)


async def test_each_path_answers() -> None:
    with admin(CALM) as port:
        answers = {
            path: await request(port, "GET", path)
            for path in ("/livez", "/readyz", "/metrics", "/primitives", "/drain?x=1", "/else")
        }
    assert [answer.status for answer in answers.values()] == [200, 200, 200, 200, 200, 404]
    told = json.loads(answers["/primitives"].body)
    assert told == {"workers": [{"pid": 7, "primitives": [asdict(SEARCH)]}]}
    assert answers["/metrics"].headers["content-type"].startswith("text/plain; version=0.0.4")
    assert json.loads(answers["/drain?x=1"].body)["workers"][0]["pid"] == 7


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
async def test_only_get_is_answered(method: str) -> None:
    with admin(CALM) as port:
        answer = await request(port, method, "/drain")
    assert (answer.status, answer.headers["allow"]) == (405, "GET")


async def test_stuck_loop_is_told_with_its_seconds_and_place() -> None:
    with admin(STUCK) as port:
        answer = await request(port, "GET", "/livez")
    assert answer.status == 503
    assert json.loads(answer.body)["stuck"] == [{"pid": 8, "seconds": 4.25, "at": "a.py:3 in f"}]


def test_one_stuck_worker_of_two_is_no_reason_to_restart_both() -> None:
    assert live([CALM, STUCK])["status"] == "ok"
    assert live([STUCK])["status"] == "unavailable"
    assert ready([CALM, STUCK]) == {"status": "ok", "ready": 1, "phases": ["ready", "ready"]}
    assert ready([STUCK])["status"] == "unavailable"


def test_metrics_are_of_all_workers_together() -> None:
    text = metrics([CALM, CALM, STUCK, GONE])
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    assert samples == {
        'stormproof_workers{phase="ready"}': "3",
        "stormproof_requests_in_flight": "6",
        "stormproof_streams_open": "2",
        "stormproof_losses_total": "1",
        'stormproof_responses_total{class="2xx"}': "1000080",
        'stormproof_responses_total{class="5xx"}': "4",
        "stormproof_loop_lag_seconds": "4.15",
        "stormproof_loop_beat_age_seconds": "4.25",
        "process_resident_memory_bytes": "2000",
    }


def test_rehearsal_names_the_oldest_first() -> None:
    work = (Loss("request", "GET /new", 1.0, "a.py:1 in f"), Loss("task", "mail", 9.0))
    report = rehearsal([WorkerSnapshot(pid=1, phase="ready", grace=20.0, open=work)])
    assert report["workers"][0]["grace_seconds"] == 20.0
    assert report["open"] == {"request": 1, "stream": 0, "task": 1, "other": 0}
    assert [entry["name"] for entry in report["workers"][0]["open"]] == ["mail", "GET /new"]


def test_snapshot_survives_the_journey() -> None:
    work = (Loss("request", "GET /ü", 1.0, "a.py:1 in f"),)
    sent = WorkerSnapshot(
        pid=1, phase="ready", responses={"2xx": 1}, open=work, primitives=(SEARCH,)
    )
    assert "\n" not in sent.to_json()
    assert WorkerSnapshot.from_json(sent.to_json()) == sent
    for nonsense in ("", "{}", "[]", '{"pid": 1, "open": [], "other": 2}'):
        with pytest.raises(ValueError, match=r"."):
            WorkerSnapshot.from_json(nonsense)


async def test_responses_are_counted_by_class(worker: Watched) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": scope["status"]})

    async def send(message: Any) -> None:
        pass

    counted = worker.observer.counting(app)
    for status in (200, 204, 404, 503):
        await counted({"type": "http", "status": status}, None, send)  # type: ignore[arg-type]
    await counted({"type": "websocket"}, None, send)  # type: ignore[arg-type]
    counts = worker.observer.snapshot().responses
    assert counts == {"1xx": 0, "2xx": 2, "3xx": 0, "4xx": 1, "5xx": 1}


async def test_beats_age_while_the_loop_does_not_run(worker: Watched) -> None:
    assert worker.observer.snapshot().beat_age == 0.0
    worker.lifecycle.enter(Phase.READY)
    worker.clock.turn(5.0)
    taken: list[WorkerSnapshot] = []
    thread = threading.Thread(target=lambda: taken.append(worker.observer.snapshot()))
    thread.start()
    thread.join()  # the loop stands still here, which is what the thread is to say
    assert taken[0].beat_age == 5.0
    assert f"{__file__}:" in taken[0].stuck_at
    assert "in test_beats_age_while_the_loop_does_not_run" in taken[0].stuck_at
    assert taken[0].loop_lag == pytest.approx(4.9)
    assert taken[0].rss_bytes > 1_000_000


async def test_lag_of_a_late_heartbeat_is_remembered(worker: Watched) -> None:
    worker.lifecycle.enter(Phase.READY)
    worker.clock.turn(3.1)
    await until(lambda: worker.observer.snapshot().beat_age == 0.0)
    assert worker.observer.snapshot().loop_lag == pytest.approx(3.0)
    assert worker.observer.snapshot().stuck_at == ""


async def test_rehearsal_names_requests_streams_and_tasks_with_their_places(
    worker: Watched,
) -> None:
    release = asyncio.Event()
    scope = {"type": "http", "method": "GET", "path": "/slow", "headers": []}

    async def endpoint() -> None:
        with worker.lifecycle.request(scope), worker.lifecycle.stream("GET /stream"):
            await release.wait()

    async def forgotten() -> None:
        await release.wait()

    worker.lifecycle.enter(Phase.READY)
    async with asyncio.TaskGroup() as group:
        group.create_task(endpoint())
        group.create_task(forgotten(), name="forgotten")
        await asyncio.sleep(0)
        found = worker.observer.snapshot(with_open=True).open
        release.set()
    kinds = {(loss.kind, loss.name, loss.detail.rpartition(" ")[2]) for loss in found}
    assert ("request", "GET /slow", "endpoint") in kinds
    assert ("stream", "GET /stream", "") in kinds
    assert ("other", "forgotten", "forgotten") in kinds
    assert all(name != "endpoint" for _, name, _ in kinds)


async def test_part_that_rehearses_names_its_own_tasks() -> None:
    release = asyncio.Event()
    task = asyncio.create_task(release.wait(), name="mail")  # type: ignore[arg-type]

    class Mails:
        def rehearse(self) -> dict[Any, Loss]:
            return {task: Loss("task", "mail to a@b", 7.0)}

    lifecycle = Lifecycle()
    observer = Observer(lifecycle, parts=[object(), Mails()])
    lifecycle.enter(Phase.READY)
    await asyncio.sleep(0)
    found = observer.snapshot(with_open=True).open
    release.set()
    await task
    observer.close()
    assert found[0] == Loss("task", "mail to a@b", 7.0)
    assert "mail" not in [loss.name for loss in found]


def test_parent_gets_the_snapshot_of_its_worker(worker: Watched) -> None:
    ours, theirs = socket.socketpair()
    thread = answer_on(theirs, worker.observer)
    link = WorkerLink(ours, pid=5)
    assert link.ask().phase == "starting"
    assert link.ask(with_open=True).open == ()
    link.close()
    thread.join()


def test_worker_that_has_not_answered_yet_is_starting(worker: Watched) -> None:
    """It is importing the app, which is no reason to kill it."""
    ours, theirs = socket.socketpair()
    link = WorkerLink(ours, pid=5)
    assert link.ask() == WorkerSnapshot(pid=5, phase="starting")
    assert live([link.ask()])["status"] == "ok"
    thread = answer_on(theirs, worker.observer)
    worker.lifecycle.enter(Phase.DRAINING)
    while (snapshot := link.ask()).phase == "starting":
        pass
    assert snapshot.phase == "draining"
    link.close()
    thread.join()


def test_worker_that_answers_no_more_is_silent_and_heard_again_later() -> None:
    ours, theirs = socket.socketpair()
    link = WorkerLink(ours, pid=5)

    theirs.sendall(CALM.to_json().encode() + b"\n")  # waits there for its question
    assert link.ask() == CALM
    silent = link.ask()
    assert silent == WorkerSnapshot(pid=5, phase="silent")
    assert live([silent])["status"] == "unavailable"
    lines = [STUCK.to_json(), CALM.to_json()]
    theirs.sendall("".join(line + "\n" for line in lines).encode())
    assert link.ask() == CALM  # not an answer to an older question
    theirs.close()
    link.close()


def test_worker_that_is_gone_is_told_apart_by_its_absence() -> None:
    """Its counters stay, so that sums never fall; its link is closed."""
    workforce = Workforce()
    ends = []
    for pid in (5, 6):
        ours, theirs = socket.socketpair()
        workforce.join(pid, ours)
        ends.append(theirs)
    for theirs in ends:
        theirs.sendall(CALM.to_json().encode() + b"\n")
    assert [one.phase for one in workforce(with_open=False)] == ["ready", "ready", "gone"]
    workforce.leave(5)
    workforce.leave(5)
    ends[1].sendall(CALM.to_json().encode() + b"\n")
    one, gone = workforce(with_open=False)
    assert (one.responses["2xx"], gone.responses["2xx"], gone.phase) == (40, 40, "gone")
    workforce.leave(6)
    (gone,) = workforce(with_open=False)
    assert gone.responses == {"2xx": 80, "5xx": 4}
    assert live([gone])["status"] == "ok"
    assert ready([gone]) == {"status": "unavailable", "ready": 0, "phases": []}
    for theirs in ends:
        theirs.close()


def test_worker_whose_service_has_given_up_is_not_ready_and_says_why() -> None:
    reason = "service 'poll': ValueError"
    given_up = WorkerSnapshot(pid=1, phase="ready", unready=(reason,))
    assert ready([given_up])["status"] == "unavailable"
    assert ready([given_up, CALM]) | {"phases": None} == {
        "status": "ok",
        "ready": 1,
        "phases": None,
        "reasons": [reason],
    }
    assert WorkerSnapshot.from_json(given_up.to_json()) == given_up
