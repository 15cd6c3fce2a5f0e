"""FastAPI services that lose nothing under load, faults and deploys."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._core.deadline import remaining as remaining
    from ._core.lifecycle import Lifecycle as Lifecycle
    from ._core.lifecycle import Loss as Loss
    from ._core.lifecycle import Part as Part
    from ._core.lifecycle import Phase as Phase
    from ._core.primitives import Primitive as Primitive
    from ._core.primitives import primitives as primitives
    from .database import Database as Database
    from .fastapi import BackgroundTasks as BackgroundTasks
    from .fastapi import background as background
    from .fastapi import event_stream as event_stream
    from .fastapi import install as install
    from .fastapi import rate_limit as rate_limit
    from .fastapi import read_session as read_session
    from .fastapi import route_deadline as route_deadline
    from .fastapi import row_stream as row_stream
    from .fastapi import session as session
    from .fastapi import sync_read_session as sync_read_session
    from .fastapi import sync_session as sync_session
    from .jobs import Job as Job
    from .jobs import Jobs as Jobs
    from .jobs import current_job as current_job
    from .limit import Adaptive as Adaptive
    from .limit import Admission as Admission
    from .limit import AdmissionRule as AdmissionRule
    from .limit import Limiter as Limiter
    from .limit import RateLimit as RateLimit
    from .stream import Exports as Exports
    from .stream import Hub as Hub
    from .stream import MemoryBus as MemoryBus
    from .stream import RowsResponse as RowsResponse
    from .stream import ServerEvent as ServerEvent
    from .stream import SSEResponse as SSEResponse
    from .stream._postgres import PostgresBus as PostgresBus
    from .stream._redis import RedisBus as RedisBus
    from .tasks import Tasks as Tasks
    from .threads import Threads as Threads
    from .upstream import Budget as Budget
    from .upstream import CircuitBreaker as CircuitBreaker
    from .upstream import Hedge as Hedge
    from .upstream import Retry as Retry
    from .upstream import SingleFlight as SingleFlight
    from .upstream import StaleCache as StaleCache
    from .upstream import Upstream as Upstream
    from .upstream import fan_out as fan_out
    from .upstream._aiohttp import AiohttpTransport as AiohttpTransport

# Names are loaded when they are first used: a room whose extra is not installed costs nothing,
# and using it says which extra to install.
_HOMES = {
    "Adaptive": ("limit", None),
    "Admission": ("limit", None),
    "AdmissionRule": ("limit", None),
    "AiohttpTransport": ("upstream._aiohttp", "aiohttp"),
    "BackgroundTasks": ("fastapi", None),
    "Budget": ("upstream", "upstream"),
    "CircuitBreaker": ("upstream", "upstream"),
    "Database": ("database", "database"),
    "Exports": ("stream", None),
    "Hedge": ("upstream", "upstream"),
    "Hub": ("stream", None),
    "Job": ("jobs", "jobs"),
    "Jobs": ("jobs", "jobs"),
    "Lifecycle": ("_core.lifecycle", None),
    "Limiter": ("limit", None),
    "Loss": ("_core.lifecycle", None),
    "MemoryBus": ("stream", None),
    "Part": ("_core.lifecycle", None),
    "Phase": ("_core.lifecycle", None),
    "Primitive": ("_core.primitives", None),
    "PostgresBus": ("stream._postgres", "postgres"),
    "RateLimit": ("limit", None),
    "RedisBus": ("stream._redis", "redis"),
    "Retry": ("upstream", "upstream"),
    "RowsResponse": ("stream", None),
    "SSEResponse": ("stream", None),
    "ServerEvent": ("stream", None),
    "SingleFlight": ("upstream", "upstream"),
    "StaleCache": ("upstream", "upstream"),
    "Tasks": ("tasks", None),
    "Threads": ("threads", None),
    "Upstream": ("upstream", "upstream"),
    "background": ("fastapi", None),
    "event_stream": ("fastapi", None),
    "current_job": ("jobs", "jobs"),
    "fan_out": ("upstream", "upstream"),
    "install": ("fastapi", None),
    "primitives": ("_core.primitives", None),
    "rate_limit": ("fastapi", None),
    "read_session": ("fastapi", None),
    "remaining": ("_core.deadline", None),
    "route_deadline": ("fastapi", None),
    "row_stream": ("fastapi", None),
    "session": ("fastapi", None),
    "sync_read_session": ("fastapi", None),
    "sync_session": ("fastapi", None),
}

__all__ = tuple(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stormproof' has no attribute {name!r}")
    module, extra = _HOMES[name]
    try:
        return getattr(import_module(f".{module}", __name__), name)
    except ModuleNotFoundError as exc:
        if extra is None:
            raise
        from .errors import MissingExtra

        raise MissingExtra(
            f"stormproof.{name} needs {exc.name!r}; install it with "
            f"pip install 'stormproof[{extra}]'"
        ) from exc


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
