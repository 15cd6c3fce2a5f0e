"""Arguments of limits, checked where they enter and named in the message."""

import math

from stormproof.errors import InvalidSetting


def checked_count(argument: str, value: int, *, at_least: int = 1, of: str = "a Limiter") -> int:
    """Return `value` when it is a whole number of at least `at_least`, else raise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise InvalidSetting(
            f"{argument} of {of} must be a whole number of at least {at_least}, not {value!r}"
        )
    return value


def checked_seconds(argument: str, value: float, *, of: str = "a Limiter") -> float:
    """Return `value` when it is a finite number of seconds, 0 or more, else raise."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise InvalidSetting(
            f"{argument} of {of} must be a finite number of seconds, 0 or more, not {value!r}"
        )
    return float(value)
