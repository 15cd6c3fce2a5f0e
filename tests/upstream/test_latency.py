import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormproof.testing import HandClock
from stormproof.upstream._latency import RotatingQuantile


def estimator(clock: HandClock | None = None) -> RotatingQuantile:
    return RotatingQuantile(window=30.0, clock=clock or HandClock())


def test_nothing_seen_has_no_quantile() -> None:
    assert estimator().quantile(0.95) is None
    assert estimator().total == 0


def test_p95_is_what_19_of_20_took_at_most() -> None:
    latency = estimator()
    for _ in range(95):
        latency.record(0.010)
    for _ in range(5):
        latency.record(1.0)
    assert latency.quantile(0.95) == pytest.approx(0.010, rel=0.1)
    assert latency.quantile(0.96) == pytest.approx(1.0, rel=0.1)
    assert latency.quantile(0.0) == pytest.approx(0.010, rel=0.1)


def test_old_durations_are_forgotten_by_halves() -> None:
    clock = HandClock()
    latency = estimator(clock)
    latency.record(1.0)
    clock.turn(15.0)
    latency.record(0.01)
    assert latency.quantile(1.0) == pytest.approx(1.0, rel=0.1)
    clock.turn(15.0)
    assert latency.quantile(1.0) == pytest.approx(0.01, rel=0.1)
    assert latency.total == 1
    clock.turn(15.0)
    assert latency.total == 0


def test_silence_longer_than_the_window_forgets_all() -> None:
    clock = HandClock()
    latency = estimator(clock)
    latency.record(1.0)
    clock.turn(300.0)
    assert latency.total == 0
    latency.record(0.01)
    assert latency.quantile(1.0) == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(
    ("seconds", "counted"), [(0.0, 0.0001), (-1.0, 0.0001), (1e6, 1000.0), (0.0001, 0.0001)]
)
def test_extremes_count_as_the_ends_of_the_scale(seconds: float, counted: float) -> None:
    latency = estimator()
    latency.record(seconds)
    assert latency.quantile(0.5) == pytest.approx(counted, rel=0.15)


@given(
    st.lists(st.floats(0.0001, 900.0), min_size=1, max_size=200),
    st.floats(0.01, 0.99),
)
def test_quantile_is_the_sorted_one_rounded_up_by_a_tenth_at_most(
    durations: list[float], share: float
) -> None:
    latency = estimator()
    for seconds in durations:
        latency.record(seconds)
    exact = sorted(durations)[math.ceil(share * len(durations)) - 1]
    found = latency.quantile(share)
    assert found is not None
    assert exact * 0.999999 <= found <= exact * 1.100001
