"""Faults: a TCP proxy before each dependency of the app, and what can go wrong in it."""

from ._dependency import Dependency as Dependency
from ._dependency import dependencies as dependencies
from ._dependency import rerouted as rerouted
from ._fault import Fault as Fault
from ._proxy import FaultProxy as FaultProxy
from .bandwidth import Bandwidth as Bandwidth
from .blackhole import Blackhole as Blackhole
from .down import Down as Down
from .latency import Latency as Latency
from .refuse import Refuse as Refuse
from .reset import Reset as Reset
from .slow_close import SlowClose as SlowClose

__all__ = (
    "Bandwidth",
    "Blackhole",
    "Dependency",
    "Down",
    "Fault",
    "FaultProxy",
    "Latency",
    "Refuse",
    "Reset",
    "SlowClose",
    "dependencies",
    "rerouted",
)
