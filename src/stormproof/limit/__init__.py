"""Limits: how many at once, how long to wait for a place, and what to shed."""

from ._limiter import Limiter as Limiter
from ._limiter import Slot as Slot
from ._statistics import LimiterStatistics as LimiterStatistics

__all__ = ("Limiter", "LimiterStatistics", "Slot")
