"""Scenario files: which requests to send, with what weight, and which of them are promises."""

import importlib.util
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stormproof.errors import InvalidSetting

from ._options import ProveOptions
from ._recording import Route

NAME = "prove.toml"
"""A scenario of this name beside the app's module is used where none is given."""

_KEYS = {"method", "path", "headers", "body", "json", "weight", "promise", "kept"}
_KEPT_KEYS = {"path", "contains", "within"}
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request of a scenario; `kept` says where the promise can be looked up later."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: str
    weight: float
    is_promise: bool
    kept: Mapping[str, str]


def scenario_path(options: ProveOptions) -> Path | None:
    """Return the scenario in force: the given one, or `prove.toml` beside the app's module."""
    if options.scenario is not None:
        return options.scenario
    module = options.app.partition(":")[0]
    if not module:
        return None
    place = options.directory.joinpath(*module.split("."))
    beside = [place.parent / NAME]
    try:
        spec = importlib.util.find_spec(module) if "." in module else None
    except (ImportError, ValueError):
        spec = None
    if spec is not None and spec.origin:
        beside.append(Path(spec.origin).parent / NAME)
    return next((path for path in beside if path.is_file()), None)


def load_scenario(path: Path) -> tuple[Asked, ...]:
    """Return the requests of a scenario file.

    Raises:
        InvalidSetting: The file cannot be read, or a request in it is wrong; says which.
    """
    try:
        document = tomllib.loads(path.read_text())
    except OSError as exc:
        raise InvalidSetting(f"cannot read scenario {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise InvalidSetting(f"scenario {path} is not valid TOML: {exc}") from exc
    entries = document.get("request", [])
    if not isinstance(entries, list) or not entries:
        raise InvalidSetting(
            f'scenario {path} has no request; it wants [[request]] with path = "/…"'
        )
    return tuple(_asked(entry, f"{path}, request {n}") for n, entry in enumerate(entries, 1))


def _asked(entry: Any, where: str) -> Asked:
    if not isinstance(entry, dict):
        raise InvalidSetting(f"{where}: a request is a table, got {entry!r}")
    if unknown := sorted(set(entry) - _KEYS):
        raise InvalidSetting(
            f"{where}: there is no key {unknown[0]!r}; there are {', '.join(sorted(_KEYS))}"
        )
    method, url = str(entry.get("method", "GET")).upper(), entry.get("path")
    if method not in _METHODS:
        raise InvalidSetting(f"{where}: method {method!r} is none of {', '.join(sorted(_METHODS))}")
    if not isinstance(url, str) or not url.startswith("/"):
        raise InvalidSetting(f'{where}: path must be a string that begins with "/", got {url!r}')
    weight = entry.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not weight > 0:
        raise InvalidSetting(f"{where}: weight must be a number above 0, got {weight!r}")
    if not isinstance(entry.get("headers", {}), dict):
        raise InvalidSetting(f"{where}: headers must be a table, got {entry['headers']!r}")
    headers = {str(key).lower(): str(value) for key, value in entry.get("headers", {}).items()}
    body = str(entry.get("body", ""))
    if "json" in entry:
        body = json.dumps(entry["json"])
        headers.setdefault("content-type", "application/json")
    return Asked(
        method=method,
        url=url,
        headers=headers,
        body=body,
        weight=float(weight),
        is_promise=bool(entry.get("promise", method not in ("GET", "HEAD"))),
        kept=_kept(entry["kept"], where) if "kept" in entry else {},
    )


def _kept(entry: Any, where: str) -> dict[str, str]:
    """Return how a promise is looked up; all values as text."""
    if not isinstance(entry, dict) or not str(entry.get("path", "")).startswith("/"):
        raise InvalidSetting(
            f'{where}: kept must be a table with path = "/…", where the promise is looked up; '
            f"got {entry!r}"
        )
    if unknown := sorted(set(entry) - _KEPT_KEYS):
        raise InvalidSetting(
            f"{where}: kept has no key {unknown[0]!r}; there are {', '.join(sorted(_KEPT_KEYS))}"
        )
    within = entry.get("within", 1)
    if isinstance(within, bool) or not isinstance(within, (int, float)) or not within > 0:
        raise InvalidSetting(f"{where}: kept.within must be seconds above 0, got {within!r}")
    return {str(key): str(value) for key, value in entry.items()}


def merged(
    asked: tuple[Asked, ...], *, templates: tuple[Route, ...], rest: tuple[Route, ...]
) -> tuple[Route, ...]:
    """Return the scenario's requests as routes, and those of `rest` that it leaves out.

    A request belongs to the template its path fits; a second request of one route has " #2".
    """
    found: list[Route] = []
    for request in asked:
        path = _template(request, templates)
        base = f"{request.method} {path}"
        taken = sum(route.id.split(" #")[0] == base for route in found)
        found.append(
            Route(
                id=f"{base} #{taken + 1}" if taken else base,
                method=request.method,
                path=path,
                url=request.url,
                is_promise=request.is_promise,
                weight=request.weight,
                headers=request.headers,
                body=request.body,
                kept=request.kept,
            )
        )
    covered = {route.id for route in found}
    return (*found, *(route for route in rest if route.id not in covered))


def _template(request: Asked, routes: tuple[Route, ...]) -> str:
    parts = urlsplit(request.url).path.split("/")
    for route in routes:
        wanted = route.path.split("/")
        if len(wanted) == len(parts) and all(
            part == want or (want.startswith("{") and part)
            for part, want in zip(parts, wanted, strict=True)
        ):
            return route.path
    return urlsplit(request.url).path
