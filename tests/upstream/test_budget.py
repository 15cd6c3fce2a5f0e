import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormproof.errors import InvalidSetting
from stormproof.testing import HandClock
from stormproof.upstream import Budget


def test_few_calls_may_be_repeated_up_to_the_minimum() -> None:
    budget = Budget(0.1, clock=HandClock())
    assert budget.left == 3
    assert [budget.take() for _ in range(5)] == [True, True, True, False, False]
    assert (budget.left, budget.refused) == (0, 2)


def test_many_calls_allow_their_fraction() -> None:
    budget = Budget(0.1, clock=HandClock())
    for _ in range(100):
        budget.note_call()
    assert [budget.take() for _ in range(12)].count(True) == 10


def test_fraction_counts_the_calls_of_the_window_only() -> None:
    clock = HandClock()
    budget = Budget(0.5, minimum=0, window=10.0, clock=clock)
    for _ in range(10):
        budget.note_call()
    assert budget.left == 5
    clock.turn(8.9)
    assert budget.take()
    clock.turn(2.0)
    assert budget.left == 0
    for _ in range(10):
        budget.note_call()
    assert budget.left == 4
    clock.turn(60.0)
    assert budget.left == 0


def test_no_fraction_and_no_minimum_allow_nothing() -> None:
    budget = Budget(0.0, minimum=0, clock=HandClock())
    budget.note_call()
    assert not budget.take()


@pytest.mark.parametrize(
    "settings",
    [{"fraction": -0.1}, {"fraction": 1.5}, {"minimum": -1}, {"window": 0}, {"window": 1e999}],
)
def test_unusable_budget_is_named(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(settings))):
        Budget(**settings)  # type: ignore[arg-type]


@given(
    st.lists(st.one_of(st.sampled_from(["call", "take"]), st.floats(0.0, 4.0)), max_size=300),
    st.floats(0.0, 1.0),
    st.integers(0, 5),
)
def test_extra_attempts_never_pass_the_fraction_of_any_window(
    steps: list[str | float], fraction: float, minimum: int
) -> None:
    clock = HandClock(0.0)
    budget = Budget(fraction, minimum=minimum, window=10.0, clock=clock)
    calls: list[float] = []
    taken: list[float] = []
    for step in steps:
        if step == "call":
            budget.note_call()
            calls.append(clock.now())
        elif step == "take":
            if budget.take():
                taken.append(clock.now())
        else:
            assert isinstance(step, float)
            clock.turn(step)
        # What was taken lately is at most what the calls of the window, at its widest, allow.
        recently = sum(at > clock.now() - 9.0 for at in taken)
        seen = sum(at > clock.now() - 20.0 for at in calls)
        assert recently <= max(minimum, fraction * seen)
        assert budget.left >= 0
