"""Seconds: what may be given as a duration."""

import math

from stormproof.errors import InvalidSetting


def check_seconds(where: str, *, or_zero: bool = False, **arguments: float) -> None:
    """Raise `InvalidSetting`, which names the argument, unless each is a finite duration.

    Args:
        where: What takes the arguments, for example "Upstream".
        or_zero: Whether 0 is one.
        **arguments: Seconds by name.
    """
    for name, seconds in arguments.items():
        if 0 < seconds < math.inf or (or_zero and seconds == 0):
            continue
        least = "0 or more" if or_zero else "above 0"
        raise InvalidSetting(f"{where}({name}={seconds!r}) must be finite seconds, {least}")
