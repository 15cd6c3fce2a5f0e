"""Headers in which a caller says how long it will wait, and what each means in seconds."""

import math
import re
from collections.abc import Callable, Iterable, Mapping

from stormproof._core.asgi import Scope
from stormproof.errors import InvalidHeader, InvalidSetting

TIMEOUT_HEADER = "X-Request-Timeout"
"""The header in which a caller says how many seconds it will wait."""

Reading = Callable[[str], float]
"""Gives what one header's value allows, in seconds; `math.nan`: malformed."""


def readings_of(names: Iterable[str]) -> Mapping[bytes, Reading]:
    """Return how to read each header of `names`, by its name as ASGI has it (lower case).

    Raises:
        InvalidSetting: A name is none of the five that are known.
    """
    if isinstance(names, str):
        raise InvalidSetting(f"headers={names!r} must be a list of names, not one string")
    known = {name.lower(): (name, read) for name, read in _KNOWN.items()}
    readings: dict[bytes, Reading] = {}
    for name in names:
        if name.lower() not in known:
            raise InvalidSetting(f"headers: {name!r} is not one of {', '.join(_KNOWN)}")
        readings[name.lower().encode()] = known[name.lower()][1]
    return readings


def asked_seconds(scope: Scope, readings: Mapping[bytes, Reading]) -> float:
    """Return the least that the caller's headers allow, in seconds; `math.inf` without any.

    Raises:
        InvalidHeader: A header of `readings` is malformed, or allows no time at all.
    """
    least = math.inf
    for name, value in scope["headers"]:
        if name in readings:
            least = min(least, _seconds(name, str(value, "latin-1"), readings[name]))
    return least


def _seconds(name: bytes, text: str, read: Reading) -> float:
    seconds = read(text)
    if seconds > 0:
        return seconds
    shown = next(known for known in _KNOWN if known.lower().encode() == name)
    raise InvalidHeader(
        f"{shown}: {text[:40]!r} must be {_WANTED[shown]}; "
        "leave the header out for the service's default"
    )


def _plain_seconds(text: str) -> float:
    try:
        # float() also takes "1_0" and the digits of every script; HTTP numbers have neither.
        seconds = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return math.nan
    return seconds if seconds < math.inf else math.nan


def _grpc_timeout(text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,8})([HMSmun])", text)
    return int(found[1]) * _GRPC_UNITS[found[2]] if found else math.nan


def _milliseconds(text: str) -> float:
    return int(text) / 1000 if re.fullmatch(r"[0-9]{1,10}", text) else math.nan


def _preferred_wait(text: str) -> float:
    """Return what `wait=N` says among the preferences; `math.inf` when they have no `wait`."""
    least = math.inf
    for preference in text.split(","):
        token, _, value = preference.partition(";")[0].partition("=")
        if token.strip().lower() == "wait":
            digits = re.fullmatch(r'"?([0-9]{1,10})"?', value.strip())
            least = min(least, int(digits[1])) if digits else math.nan
            if math.isnan(least):
                break
    return least


_GRPC_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

_KNOWN: dict[str, Reading] = {
    TIMEOUT_HEADER: _plain_seconds,
    "grpc-timeout": _grpc_timeout,
    "Connect-Timeout-Ms": _milliseconds,
    "x-envoy-expected-rq-timeout-ms": _milliseconds,
    "Prefer": _preferred_wait,
}

_MS_WANTED = "a whole number of milliseconds above 0 in at most 10 digits, for example 2500"

_WANTED = {
    TIMEOUT_HEADER: "a finite number of seconds above 0, for example 2.5",
    "grpc-timeout": "a whole number above 0 in at most 8 digits and its unit (H M S m u n), "
    "for example 2500m",
    "Connect-Timeout-Ms": _MS_WANTED,
    "x-envoy-expected-rq-timeout-ms": _MS_WANTED,
    "Prefer": "preferences of which `wait` is a whole number of seconds above 0, "
    "for example wait=3",
}
