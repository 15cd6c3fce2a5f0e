"""What may be given as seconds and as a number of things, and what is said of the rest."""

import math
from typing import Any

import pytest

from stormproof._arguments import check_count, check_seconds
from stormproof.errors import InvalidSetting


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan, True, "5", None])
def test_what_is_no_time_is_named_with_its_owner_and_its_value(seconds: Any) -> None:
    with pytest.raises(InvalidSetting) as caught:
        check_seconds("Part", first=1, second=seconds)
    assert caught.value.message == (
        f"Part(second={seconds!r}) must be a finite number of seconds, above 0"
    )


@pytest.mark.parametrize("count", [0, -1, 1.0, True, "5", None])
def test_what_is_no_number_of_things_is_named_with_its_owner_and_its_value(count: Any) -> None:
    with pytest.raises(InvalidSetting) as caught:
        check_count("Part", first=1, second=count)
    assert caught.value.message == f"Part(second={count!r}) must be an int of 1 or more"


def test_nothing_and_none_are_taken_where_that_is_said() -> None:
    check_seconds("Part", or_zero=True, or_none=True, first=0, second=None, third=0.5)
    check_count("Part", least=0, or_none=True, first=0, second=None, third=3)
    with pytest.raises(InvalidSetting, match="seconds, 0 or more, or None"):
        check_seconds("Part", or_zero=True, or_none=True, first=-1)
    with pytest.raises(InvalidSetting, match="0 or more, or None"):
        check_count("Part", least=0, or_none=True, first=-1)
