"""Streams: server-sent events and row exports that end politely, and never look whole when cut."""

from ._bus import Bus as Bus
from ._bus import Entry as Entry
from ._bus import HistoryLost as HistoryLost
from ._bus import Position as Position
from ._event import ServerEvent as ServerEvent
from ._event import json_event as json_event
from ._exports import Exports as Exports
from ._hub import Hub as Hub
from ._hub import HubStatistics as HubStatistics
from ._memory import MemoryBus as MemoryBus
from ._published import Published as Published
from ._rows import RowsResponse as RowsResponse
from ._sse import SSEResponse as SSEResponse
from ._typed import EventNames as EventNames
from ._typed import event_name as event_name

__all__ = (
    "Bus",
    "Entry",
    "EventNames",
    "Exports",
    "HistoryLost",
    "Hub",
    "HubStatistics",
    "MemoryBus",
    "Position",
    "Published",
    "RowsResponse",
    "SSEResponse",
    "ServerEvent",
    "event_name",
    "json_event",
)
