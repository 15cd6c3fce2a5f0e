"""`install(threads=)`: `def` endpoints have so many threads, also when all callers time out."""

import asyncio
import threading
from typing import Any

import pytest
from fastapi import FastAPI

import stormproof
from stormproof.errors import InvalidSetting
from tests.faults.in_process import Work, served
from tests.harness import request, until

THREADS = 8
CALLS = 300


async def test_300_timed_out_def_requests_leave_no_more_threads_than_the_limit() -> None:
    """Without the limiter's help there were 228 (a thread of 1 s for each caller who left)."""
    work, before = Work(), threading.active_count()
    app = FastAPI()
    app.add_api_route("/report", work.block, dependencies=[stormproof.route_deadline(0.3)])
    stormproof.install(app, prestop=0.0, threads=THREADS)
    async with served(app) as port:
        with work.opened_at_the_end():
            for _ in range(CALLS // 60):
                calls = (request(port, "GET", "/report", timeout=20.0) for _ in range(60))
                answers = await asyncio.gather(*calls)
                assert {answer.status for answer in answers} == {504}
                assert threading.active_count() - before <= THREADS + 5
        assert work.begun == THREADS
        await until(lambda: work.inside == 0)


@pytest.mark.parametrize("threads", [0, -1, True, 2.5, "8"])
def test_the_number_of_threads_must_be_a_whole_number_above_0(threads: Any) -> None:
    with pytest.raises(InvalidSetting, match="threads="):
        stormproof.install(FastAPI(), threads=threads)
