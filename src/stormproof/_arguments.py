"""Arguments that many parts take, checked where they enter and named in the message."""

import math

from .errors import InvalidSetting


def check_seconds(
    of: str, *, or_zero: bool = False, or_none: bool = False, **arguments: float | None
) -> None:
    """Raise InvalidSetting unless each argument is a finite number of seconds above 0.

    Args:
        of: What takes the arguments, for example "Upstream".
        or_zero: Whether 0 is one.
        or_none: Whether None may be given instead.
        **arguments: Seconds by name.
    """
    for name, seconds in arguments.items():
        if seconds is None and or_none:
            continue
        if (
            isinstance(seconds, int | float)
            and not isinstance(seconds, bool)
            and (0 < seconds < math.inf or (or_zero and seconds == 0))
        ):
            continue
        least = "0 or more" if or_zero else "above 0"
        raise InvalidSetting(
            f"{of}({name}={seconds!r}) must be a finite number of seconds, {least}"
            f"{', or None' if or_none else ''}"
        )


def check_count(of: str, *, least: int = 1, or_none: bool = False, **arguments: int | None) -> None:
    """Raise InvalidSetting unless each argument is an int of at least `least`.

    Args:
        of: What takes the arguments, for example "Tasks".
        least: The smallest that is one.
        or_none: Whether None may be given instead.
        **arguments: Numbers by name.
    """
    for name, count in arguments.items():
        if count is None and or_none:
            continue
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise InvalidSetting(
                f"{of}({name}={count!r}) must be an int of {least} or more"
                f"{', or None' if or_none else ''}"
            )
