"""Lifecycle: open the parts, count the requests, and drain so that nothing accepted is lost."""

from ._drain import Drain as Drain
from ._middleware import LifecycleMiddleware as LifecycleMiddleware
from ._parts import opened as opened
from ._signals import drain_on_signals as drain_on_signals
from ._uvicorn import Uvicorn as Uvicorn

__all__ = ("Drain", "LifecycleMiddleware", "Uvicorn", "drain_on_signals", "opened")
