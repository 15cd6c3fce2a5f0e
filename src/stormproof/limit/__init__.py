"""Limits: how many at once, how long to wait for a place, and what to shed."""

from ._adaptive import Adaptive as Adaptive
from ._adaptive import Aimd as Aimd
from ._admission import Admission as Admission
from ._admission import AdmissionRule as AdmissionRule
from ._admission import admission_of as admission_of
from ._limiter import Limiter as Limiter
from ._middleware import AdmissionMiddleware as AdmissionMiddleware
from ._rate import RateLimit as RateLimit
from ._rate import RateStatistics as RateStatistics
from ._statistics import AdmissionStatistics as AdmissionStatistics
from ._statistics import LimiterStatistics as LimiterStatistics

__all__ = (
    "Adaptive",
    "Admission",
    "AdmissionMiddleware",
    "AdmissionRule",
    "AdmissionStatistics",
    "Aimd",
    "Limiter",
    "LimiterStatistics",
    "RateLimit",
    "RateStatistics",
    "admission_of",
)
