"""After SIGTERM a load balancer still sends requests for a while: none of them may fail."""

import time
from collections import Counter
from signal import SIGTERM

import pytest

from tests.faults.load import steady_load
from tests.faults.test_drain import OURS, SEED, WAYS, Command, running
from tests.harness import ServerProcess, until, uvicorn_app

PRESTOP = 1.2


async def check_no_request_fails_around_the_signal(process: ServerProcess, port: int) -> None:
    """Clients with new and with kept connections, from before SIGTERM until nobody listens."""
    async with steady_load(port, "/async", new=6, kept=6) as load:
        await until(lambda: len(load.outcomes) >= 100)
        signalled_at = time.monotonic()
        process.signal(SIGTERM)
        await process.wait_exit()
    failed = [
        outcome
        for outcome in load.outcomes
        # "Refused" is fine, once the load balancer has had its time to notice.
        if not outcome.is_served
        and not (outcome.is_refused and outcome.begun_at > signalled_at + PRESTOP)
    ]
    later = sum(outcome.begun_at > signalled_at for outcome in load.outcomes)
    assert failed == [], (
        f"{len(failed)} of {later} requests after the signal failed: "
        f"{Counter(str(outcome) for outcome in failed)}"
    )
    assert later > 100


@WAYS
async def test_no_request_fails_from_the_signal_to_the_closed_listener(command: Command) -> None:
    """The listener outlives the signal by the lame duck, and closes without a gap."""
    async with running(command, OURS, STORMPROOF_PRESTOP=str(PRESTOP)) as (process, port):
        await check_no_request_fails_around_the_signal(process, port)


async def test_seed_refuses_requests_from_the_signal_on() -> None:
    """uvicorn closes its listener at once, whatever still sends to it."""
    async with running(uvicorn_app, SEED) as (process, port):
        with pytest.raises(AssertionError, match=r"requests after the signal failed: .*refused"):
            await check_no_request_fails_around_the_signal(process, port)
