"""Upstreams: one HTTP client for the service's life, total timeouts, and partial fan-out."""

from ._breaker import Circuit as Circuit
from ._breaker import CircuitBreaker as CircuitBreaker
from ._budget import Budget as Budget
from ._client import Client as Client
from ._fan_out import FanOut as FanOut
from ._fan_out import fan_out as fan_out
from ._gathered import Gathered as Gathered
from ._hedge import Hedge as Hedge
from ._retry import Retry as Retry
from ._single_flight import SingleFlight as SingleFlight
from ._stale_cache import Cached as Cached
from ._stale_cache import StaleCache as StaleCache
from ._statistics import BreakerStatistics as BreakerStatistics
from ._statistics import UpstreamStatistics as UpstreamStatistics
from ._upstream import Target as Target
from ._upstream import Upstream as Upstream
from ._wire import Limit as Limit

__all__ = (
    "BreakerStatistics",
    "Budget",
    "Cached",
    "Circuit",
    "CircuitBreaker",
    "Client",
    "FanOut",
    "Gathered",
    "Hedge",
    "Limit",
    "Retry",
    "SingleFlight",
    "StaleCache",
    "Target",
    "Upstream",
    "UpstreamStatistics",
    "fan_out",
)
