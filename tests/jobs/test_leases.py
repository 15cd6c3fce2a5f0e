"""Leases: whose a job is, also in the moment between two runs of it."""

from stormproof.jobs._leases import Leases


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
