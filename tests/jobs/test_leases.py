"""Leases: whose a job is, also in the moment between two runs of it."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from stormproof.jobs._leases import Leases
from stormproof.jobs._port import EnginePort


def test_a_job_that_is_picked_again_before_its_end_is_heard_of_is_a_new_run() -> None:
    """A retry that was due at once was picked, and dropped as one that still ran."""
    leases = Leases()
    assert leases.take(7, 1)
    assert not leases.take(7, 2)  # it runs: its lease was stale, and is renewed
    assert leases.ending(7) == 2
    leases.cancelled.add(7)
    assert leases.take(7, 3)
    assert 7 not in leases.cancelled
    leases.give_up([7])  # the answer to the end of the second run
    assert leases.pick_of(7) == 3
    assert leases.ending(7) == 3
    leases.give_up([7])
    assert leases.ids() == []


async def test_a_job_that_cannot_be_given_back_while_closing_is_not_held() -> None:
    """The engine takes what `retry_job` raises for the failure of the job."""

    class Away:
        leases = Leases()

        async def again(self, *_: object, is_counted: bool) -> bool:
            raise ConnectionError("the database is away")

    store: Any = Away()
    port = EnginePort(store, concurrency=1)
    port.is_closing = True
    store.leases.take(7, 1)
    store.leases.handed_back.add(7)
    job: Any = SimpleNamespace(id=7)
    await port.retry_job(job, timedelta(0), None)
    assert store.leases.ids() == [7]  # left to whoever finds this process dead
