"""Workers under a supervisor: replaced when they end or stick, handed over, drained together."""

import asyncio
import os
import re
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM, Signals

import pytest

from tests.faults.load import steady_load
from tests.faults.supervised import (
    APP,
    QUICK,
    START_TIME,
    all_answer,
    is_gone,
    supervised,
    workers_of,
)
from tests.harness import (
    Answer,
    Connection,
    ServerProcess,
    Stream,
    free_port,
    request,
    serve_app,
    until,
)

SLOW_IMPORT = "import time\nprint('begun', flush=True)\ntime.sleep(60)\n"

SLOW_LIFESPAN = """
import asyncio
from contextlib import asynccontextmanager
from fastapi import FastAPI

@asynccontextmanager
async def lifespan(app):
    try:
        print("begun", flush=True)
        await asyncio.sleep(60)
        yield
    finally:
        print("closed again", flush=True)

app = FastAPI(lifespan=lifespan)
"""


def kill(pid: int, number: Signals = SIGKILL) -> None:
    os.kill(pid, number)


async def test_killed_worker_is_replaced_and_the_other_one_serves_on() -> None:
    async with supervised() as (process, port):
        victim, survivor = sorted(workers_of(process))
        kill(victim)
        answers = [await request(port, "GET", "/pid") for _ in range(20)]
        assert {answer.status for answer in answers} == {200}
        assert {int(answer.body) for answer in answers} == {survivor}
        await until(lambda: len(workers_of(process)) == 2, START_TIME)
        await all_answer(port, workers_of(process))
        assert survivor in workers_of(process)
        assert f"worker {victim} ended by SIGKILL; the next in 0.5 s" in process.output


@pytest.mark.parametrize(
    ("app", "sentence"),
    [
        ("1 / 0", r"stormproof: module 'main' fails on import: ZeroDivisionError.*\[SP103\]"),
        (
            APP.replace(
                "stormproof.install(app)",
                "from contextlib import asynccontextmanager\n"
                "@asynccontextmanager\n"
                "async def lifespan(app):\n"
                "    raise OSError('no such disk')\n"
                "    yield\n"
                "app = FastAPI(lifespan=lifespan)\n"
                "stormproof.install(app)",
            ),
            r"stormproof: no worker came to serve: the first ended with exit code 3.*\[SP107\]",
        ),
    ],
    ids=["import", "lifespan"],
)
async def test_app_that_cannot_start_is_one_sentence_and_exit_code_3(
    app: str, sentence: str
) -> None:
    command = serve_app("main:app", free_port(), "--workers", "2")
    async with ServerProcess(command, files={"main.py": app}) as process:
        await process.wait_for_line(sentence, START_TIME)
        assert await process.wait_exit() == 3
        lines = [line for line in process.stderr.splitlines() if " INFO " not in line]
        assert sum("stormproof: " in line for line in lines) == 1
        assert workers_of(process) == set()


async def test_setting_that_the_worker_refuses_is_wrong_use() -> None:
    command = serve_app("main:app", free_port(), "--workers", "2", "--grace", "2")
    async with ServerProcess(command, files={"main.py": APP}) as process:
        assert await process.wait_exit(START_TIME) == 2
        assert process.stderr.startswith("stormproof: --prestop (5 s) must be less than")


@pytest.mark.parametrize("phase", ["import", "lifespan"])
async def test_start_is_given_up_at_sigterm_and_what_had_opened_is_closed(phase: str) -> None:
    app = SLOW_IMPORT if phase == "import" else SLOW_LIFESPAN
    command = serve_app("main:app", free_port(), "--workers", "2")
    async with ServerProcess(command, files={"main.py": app}) as process:
        await process.wait_for_line("begun", START_TIME)
        process.signal(SIGTERM)
        assert await process.wait_exit(4.0) == 0  # a worker that ignored it is killed after 5 s
        assert ("closed again" in process.stdout) == (phase == "lifespan")
        assert "Traceback" not in process.output


async def test_hang_up_during_the_first_start_starts_nothing_beside_it() -> None:
    app = "import time\nprint('begun', flush=True)\ntime.sleep(0.5)\n1 / 0\n"
    command = serve_app("main:app", free_port(), "--workers", "2")
    async with ServerProcess(command, files={"main.py": app}) as process:
        await process.wait_for_line("begun", START_TIME)
        process.signal(SIGHUP)
        assert await process.wait_exit(START_TIME) == 3
        assert process.stdout.count("begun") == 1
        assert workers_of(process) == set()


async def test_worker_that_keeps_ending_is_replaced_ever_later() -> None:
    async with supervised("--supervised", workers=1) as (process, port):
        for pause in ("0.5", "1", "2"):
            await all_answer(port, workers_of(process))
            (worker,) = workers_of(process)
            kill(worker)
            await process.wait_for_line(f"worker {worker} ended by SIGKILL; the next in {pause} s")
            await until(lambda: len(workers_of(process)) == 1, START_TIME)
        # Meanwhile clients are not refused: they wait in the queue of the parent's socket.
        assert (await request(port, "GET", "/pid", timeout=START_TIME)).status == 200


async def test_start_that_takes_too_long_shows_its_stacks_and_ends() -> None:
    app = "import time\ndef wait_for_ever():\n    time.sleep(60)\nwait_for_ever()\n"
    command = serve_app("main:app", free_port(), "--workers", "2", "--start-limit", "3")
    async with ServerProcess(command, files={"main.py": app}) as process:
        assert await process.wait_exit(START_TIME) == 3
        assert "in wait_for_ever" in process.stderr
        assert "a worker did not serve within 3 s" in process.stderr
        assert workers_of(process) == set()


async def test_stuck_worker_shows_its_stack_and_is_replaced() -> None:
    """Its loop does not turn: the other worker serves on, and the place is filled again."""
    async with supervised("--stall-kill", "1.5") as (process, port):
        before = workers_of(process)
        blocked = asyncio.create_task(request(port, "GET", "/block?seconds=60", timeout=30.0))
        stuck = int((await process.wait_for_line(r"worker (\d+) is stuck", 20.0)).group(1))
        assert (await request(port, "GET", "/pid")).status == 200
        assert (await blocked).ended in ("reset", "truncated")
        await until(lambda: len(workers_of(process) - before) == 1, START_TIME)
        await all_answer(port, workers_of(process))
        assert workers_of(process) & before == before - {stuck}
        assert "in block" in process.stderr  # the line of the app that holds the loop


async def hand_over(process: ServerProcess, port: int, times: int) -> None:
    """Let new workers take over, again and again; each time the old ones drain meanwhile."""
    for done in range(times):
        process.signal(SIGHUP)
        hand_overs = rf"(?s)(hand-over: \d+ new workers serve.*){{{done + 1}}}"
        await process.wait_for_line(hand_overs, START_TIME)


async def open_loop(port: int, stop: asyncio.Event) -> list[Answer]:
    """Begin a request on a new connection every 10 ms, whether or not the last is answered."""
    requests: list[asyncio.Task[Answer]] = []
    while not stop.is_set():
        requests.append(asyncio.create_task(request(port, "GET", "/pid", timeout=20.0)))
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.01)
    return list(await asyncio.gather(*requests))


async def check_hand_overs_fail_nobody(times: int, *, new: int, kept: int) -> float:
    """Hand over under load with streams open; returns the requests that were served a second."""
    stop = asyncio.Event()
    async with supervised() as (process, port), AsyncExitStack() as stack:
        first = workers_of(process)
        streams = [
            await stack.enter_async_context(Stream(port, "/events", timeout=10.0)) for _ in range(5)
        ]
        began_at = time.monotonic()
        steady = asyncio.create_task(open_loop(port, stop))
        async with steady_load(port, "/pid", new=new, kept=kept) as load:
            await until(lambda: len(load.outcomes) >= 100, START_TIME)
            await hand_over(process, port, times)
            during = len(load.outcomes)
            await until(lambda: len(load.outcomes) >= during + 100, START_TIME)
        stop.set()
        answers = await steady
        rate = (len(load.outcomes) + len(answers)) / (time.monotonic() - began_at)

        failed = Counter(str(outcome) for outcome in load.outcomes if not outcome.is_served)
        assert failed == Counter()
        assert Counter((one.status, one.ended) for one in answers) == {
            (200, "complete"): len(answers)
        }
        assert {outcome.client for outcome in load.outcomes} == {"new", "kept"}
        for stream in streams:
            assert await stream.finish(timeout=20.0) == "complete"
            assert stream.events[-1].event == "drain"
        await until(lambda: all(is_gone(pid) for pid in first), 20.0)
        process.signal(SIGTERM)
        assert await process.wait_exit(20.0) == 0
        assert process.output.count(" 0 lost") >= 2 * (times + 1)
        assert not re.search(r"[1-9]\d* lost", process.output)
        return rate


async def test_hand_overs_under_load_fail_nobody() -> None:
    """New connections, kept ones and streams, while all workers are replaced twice."""
    assert await check_hand_overs_fail_nobody(2, new=3, kept=3) > 0


@pytest.mark.storm
async def test_twelve_hand_overs_at_500_requests_a_second_fail_nobody() -> None:
    assert await check_hand_overs_fail_nobody(12, new=10, kept=10) >= 500


async def test_hand_over_to_an_app_that_cannot_start_is_given_up() -> None:
    async with supervised() as (process, port):
        before = workers_of(process)
        (process.folder / "main.py").write_text("1 / 0")
        process.signal(SIGHUP)
        await process.wait_for_line(
            r"hand-over given up, the old workers stay: .*ZeroDivisionError", START_TIME
        )
        assert workers_of(process) == before
        await all_answer(port, before)
        (process.folder / "main.py").write_text(APP)
        await hand_over(process, port, 1)
        assert not workers_of(process) <= before


async def test_reload_by_pid_file_hands_over(tmp_path: Path) -> None:
    pid_file = tmp_path / "service.pid"
    async with supervised("--pid-file", str(pid_file), workers=1) as (process, _):
        before = workers_of(process)
        assert int(pid_file.read_text()) == process.pid
        command = [sys.executable, "-m", "stormproof", "reload", "--pid-file", str(pid_file)]
        async with ServerProcess(command) as reload:
            assert await reload.wait_exit(START_TIME) == 0
        await process.wait_for_line("hand-over: 1 new workers serve", START_TIME)
        await until(lambda: all(is_gone(pid) for pid in before), 20.0)
        process.signal(SIGTERM)
        assert await process.wait_exit() == 0
        assert not pid_file.exists()


async def test_sigterm_drains_all_workers_at_once_and_loses_nothing() -> None:
    async with supervised() as (process, port), AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(Stream(port, "/events", timeout=10.0))
            for _ in range(10)
        ]
        slow = [
            asyncio.create_task(request(port, "GET", "/sleep?seconds=2", timeout=15.0))
            for _ in range(20)
        ]
        for stream in streams:
            await stream.next_event()
        async with steady_load(port, "/pid", new=4, kept=4) as load:
            await until(lambda: len(load.outcomes) >= 50, START_TIME)
            signalled_at = time.monotonic()
            process.signal(SIGTERM)
            await process.wait_exit(20.0)
        duck_ends_at = signalled_at + float(QUICK["STORMPROOF_PRESTOP"])
        failed = [
            one
            for one in load.outcomes
            if not one.is_served and not (one.is_turned_away and one.begun_at > duck_ends_at)
        ]
        assert Counter(str(outcome) for outcome in failed) == Counter()
        answers = await asyncio.gather(*slow)
        assert [(answer.status, answer.ended) for answer in answers] == [(200, "complete")] * 20
        assert [await stream.finish() for stream in streams] == ["complete"] * 10
        assert {stream.events[-1].event for stream in streams} == {"drain"}
        assert await process.wait_exit() == 0
        assert workers_of(process) == set()


async def test_sigterm_to_the_whole_group_is_one_signal() -> None:
    """systemd sends it to each process: a worker hears of it twice, and is not forced."""
    async with supervised() as (process, port):
        slow = asyncio.create_task(request(port, "GET", "/sleep?seconds=2", timeout=15.0))
        await asyncio.sleep(0)
        await all_answer(port, workers_of(process))
        for pid in [*workers_of(process), process.pid]:
            kill(pid, SIGTERM)
        assert await process.wait_exit(20.0) == 0
        assert (await slow).status == 200


async def test_second_signal_ends_all_workers_within_a_second() -> None:
    async with supervised(STORMPROOF_PRESTOP="10") as (process, port):
        slow = asyncio.create_task(request(port, "GET", "/sleep?seconds=9", timeout=15.0))
        await asyncio.sleep(0)
        await all_answer(port, workers_of(process))
        process.signal(SIGTERM)
        await process.wait_for_line(r"(?s)draining.*draining")
        process.signal(SIGTERM)
        assert await process.wait_exit(3.0) == 3  # 1 s, and 2 for a busy machine
        assert (await slow).status != 200
        assert workers_of(process) == set()


async def test_workers_of_a_killed_parent_finish_their_work_and_leave() -> None:
    async with supervised() as (process, port):
        workers = workers_of(process)
        slow = asyncio.create_task(request(port, "GET", "/sleep?seconds=2", timeout=15.0))
        await asyncio.sleep(0)
        await all_answer(port, workers)
        process.signal(SIGKILL)
        assert (await slow).status == 200
        await until(lambda: all(is_gone(pid) for pid in workers), 20.0)


async def test_worker_of_a_killed_parent_leaves_although_its_loop_is_stuck() -> None:
    """A thread hears that the parent is gone, and ends what does not end at the deadline."""
    async with supervised(workers=2, STORMPROOF_GRACE="2") as (process, port):
        workers = workers_of(process)
        async with await Connection.open(port) as connection:
            await connection.send(b"GET /block?seconds=60 HTTP/1.1\r\nhost: x\r\n\r\n")
            await process.wait_for_line("blocked")
            process.signal(SIGKILL)
            await until(lambda: all(is_gone(pid) for pid in workers), 20.0)


LISTEN = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_socket_of_systemd_is_served(workers: str) -> None:
    """The unit's socket stays open while the service restarts, so nobody is refused."""
    port = free_port()
    command = [sys.executable, "-c", LISTEN, str(port)]
    command += ["-m", "stormproof", "serve", "main:app", "--port", "1", "--workers", workers]
    async with ServerProcess(command, env=QUICK, files={"main.py": APP}) as process:
        await process.wait_ready(port, "/readyz", timeout=START_TIME)
        # The socket answers before the line is there.
        await process.wait_for_line(f"serving on http://127.0.0.1:{port} ")
        process.signal(SIGTERM)
        assert await process.wait_exit() == 0
