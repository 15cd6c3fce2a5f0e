"""Settings: one name each, from the call, `STORMPROOF_*`, `[tool.stormproof]`, or the default."""

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .errors import InvalidSetting


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator may set; all values in seconds.

    Attributes:
        grace: From the signal to the end of everything. Keep it below the platform's own.
        prestop: Lame duck at the beginning of the drain.
        deadline: What a request may take when neither its header nor its route says less.
    """

    grace: float = 30.0
    prestop: float = 5.0
    deadline: float = 30.0

    def __post_init__(self) -> None:
        if not self.prestop < self.grace:
            raise InvalidSetting(
                f"prestop ({self.prestop:g} s) must be less than grace ({self.grace:g} s), "
                "which it is a part of"
            )


def load_settings(
    *,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
    **given: float | None,
) -> Settings:
    """Return the settings in force.

    Args:
        environ: Where `STORMPROOF_GRACE` and the others are read; default `os.environ`.
        directory: Where `pyproject.toml` is; default the working directory.
        **given: Values from the call; None means "not given".

    Raises:
        InvalidSetting: A value is no number of the allowed range; names where it came from.
    """
    environ = os.environ if environ is None else environ
    table = _pyproject_table(directory or Path.cwd())
    chosen: dict[str, float] = {}
    for name in (field.name for field in fields(Settings)):
        variable = f"STORMPROOF_{name.upper()}"
        if (value := given.get(name)) is not None:
            chosen[name] = _seconds(name, value, name)
        elif (text := environ.get(variable)) is not None:
            chosen[name] = _seconds(name, text, variable)
        elif name in table:
            chosen[name] = _seconds(name, table[name], f"[tool.stormproof] {name}")
    return Settings(**chosen)


def _pyproject_table(directory: Path) -> dict[str, Any]:
    path = directory / "pyproject.toml"
    if not path.is_file():
        return {}
    try:
        table = tomllib.loads(path.read_text()).get("tool", {}).get("stormproof", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise InvalidSetting(f"{path} is not valid TOML: {exc}") from exc
    known = {field.name for field in fields(Settings)}
    if unknown := sorted(set(table) - known):
        raise InvalidSetting(
            f"[tool.stormproof] has no setting {unknown[0]!r}; there are {', '.join(sorted(known))}"
        )
    return dict(table)


def _seconds(name: str, value: object, source: str) -> float:
    try:
        seconds = float(value) if isinstance(value, (int, float, str)) else math.nan
    except ValueError:
        seconds = math.nan
    is_zero_fine = name == "prestop"
    if not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not is_zero_fine):
        least = "0 or more" if is_zero_fine else "more than 0"
        raise InvalidSetting(f"{source} must be a number of seconds, {least}; got {value!r}")
    return seconds
