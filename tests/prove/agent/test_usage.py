"""What counts as blocked: work and sleep of one callback, not the wait for processor or peers."""

from stormproof.prove.agent._usage import Use, blocked


def test_a_sleep_that_samples_interrupt_counts_whole() -> None:
    """Each sample wakes the thread, which then queues 20 of the 25 ms for a processor."""
    here = object()
    samples = [(Use(0.065 + 0.025 * n, 0.0, 0.02 * n), here) for n in range(10)]
    now = Use(0.315, 0.001, 0.18)
    assert abs(blocked(Use(0, 0, 0), samples, now, is_one_call=False) - 0.315) < 1e-9


def test_computing_without_a_processor_counts_for_what_was_computed() -> None:
    here = object()
    samples = [(Use(0.1 * n, 0.02 * n, 0.08 * n), here) for n in range(1, 10)]
    now = Use(1.0, 0.2, 0.8)
    assert abs(blocked(Use(0, 0, 0), samples, now, is_one_call=False) - 0.2) < 1e-9


def test_a_wait_for_the_interpreter_in_a_callback_that_gets_on_does_not_count() -> None:
    samples = [(Use(0.065 + 0.025 * n, 0.002 * n, 0.0), object()) for n in range(10)]
    now = Use(0.3, 0.02, 0.0)
    assert blocked(Use(0, 0, 0), samples, now, is_one_call=False) < 0.12


def test_a_call_of_c_code_counts_by_what_it_did() -> None:
    last = Use(0, 0, 0)
    assert blocked(last, [], Use(0.3, 0.01, 0.1), is_one_call=True) == 0.3
    assert abs(blocked(last, [], Use(0.3, 0.15, 0.1), is_one_call=True) - 0.2) < 1e-9


def test_samples_that_interrupt_nobody_leave_the_sleep_as_it_was() -> None:
    assert abs(blocked(Use(0, 0, 0), [], Use(0.3, 0.1, 0.1), is_one_call=False) - 0.2) < 1e-9
