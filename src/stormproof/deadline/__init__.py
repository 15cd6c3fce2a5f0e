"""Deadlines: one point in time per request, kept from the first byte in to the answer out."""

from stormproof._core.deadline import remaining as remaining

from ._block import deadline as deadline
from ._headers import TIMEOUT_HEADER as TIMEOUT_HEADER
from ._in_thread import thread_of as thread_of
from ._middleware import DeadlineMiddleware as DeadlineMiddleware
from ._request import DEADLINE_KEY as DEADLINE_KEY
from ._request import DeadlineStatistics as DeadlineStatistics
from ._request import RequestDeadline as RequestDeadline
from ._request import limit_request as limit_request

__all__ = (
    "DEADLINE_KEY",
    "TIMEOUT_HEADER",
    "DeadlineMiddleware",
    "DeadlineStatistics",
    "RequestDeadline",
    "deadline",
    "limit_request",
    "remaining",
    "thread_of",
)
