"""Streams: server-sent events and row exports that end politely, and never look whole when cut."""

from ._event import ServerEvent as ServerEvent
from ._event import json_event as json_event
from ._exports import Exports as Exports
from ._rows import RowsResponse as RowsResponse
from ._sse import SSEResponse as SSEResponse
from ._typed import EventNames as EventNames
from ._typed import event_name as event_name

__all__ = (
    "EventNames",
    "Exports",
    "RowsResponse",
    "SSEResponse",
    "ServerEvent",
    "event_name",
    "json_event",
)
