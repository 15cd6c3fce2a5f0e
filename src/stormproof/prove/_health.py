"""Which paths a platform probes: by their usual names, or as the options say."""

from dataclasses import replace
from typing import Literal

from ._options import ProveOptions
from ._recording import Route

Role = Literal["", "live", "ready", "both"]

_LIVE = ("livez", "live", "liveness", "alive")
_READY = ("readyz", "ready", "readiness")
_BOTH = ("healthz", "health", "healthcheck", "health-check", "health_check", "ping", "status", "up")
_START = ("startupz", "startup")

USUAL_PATHS = tuple(
    f"{prefix}/{name}"
    for prefix, names in (
        ("", _LIVE + _READY + _BOTH),
        ("/health", _LIVE + _READY),
        ("/healthz", ("live", "ready")),
        ("/api", ("health", "healthz")),
    )
    for name in names
)
"""Asked for even where no route declares them: middleware may answer them."""


def is_health(path: str) -> bool:
    """Whether a path is named like a probe."""
    return path.rstrip("/").rpartition("/")[2].lower() in _LIVE + _READY + _BOTH + _START


def with_roles(routes: tuple[Route, ...], options: ProveOptions) -> tuple[Route, ...]:
    """Return the routes with each probe's role; one that has no better is both."""
    probes = [route for route in routes if route.kind == "health"]
    live = options.live or _first(probes, _LIVE)
    ready = options.ready or _first(probes, _READY)
    both = _first(probes, _BOTH)

    def role(route: Route) -> Role:
        is_live = route.path == (live or both)
        is_ready = route.path == (ready or both)
        if is_live and is_ready:
            return "both"
        return "live" if is_live else "ready" if is_ready else ""

    return tuple(
        replace(route, health=role(route)) if route.kind == "health" else route for route in routes
    )


def _first(probes: list[Route], names: tuple[str, ...]) -> str | None:
    """Return the path of the first probe with one of these names, in the order of the names."""
    for name in names:
        for route in probes:
            if route.path.rstrip("/").rpartition("/")[2].lower() == name:
                return route.path
    return None
