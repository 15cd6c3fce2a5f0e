"""Limits: how many at once, how long to wait for a place, and what to shed."""

from ._adaptive import Adaptive as Adaptive
from ._adaptive import Aimd as Aimd
from ._limiter import Limiter as Limiter
from ._statistics import LimiterStatistics as LimiterStatistics

__all__ = ("Adaptive", "Aimd", "Limiter", "LimiterStatistics")
