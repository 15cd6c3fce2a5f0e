"""Streams: server-sent events and row exports that end politely, and never look whole when cut."""

from ._bus import Bus as Bus
from ._bus import Entry as Entry
from ._bus import HistoryLost as HistoryLost
from ._bus import Position as Position
from ._event import ServerEvent as ServerEvent
from ._hub import Hub as Hub
from ._hub import HubStatistics as HubStatistics
from ._memory import MemoryBus as MemoryBus
from ._published import Published as Published
from ._rows import RowsResponse as RowsResponse
from ._sse import SSEResponse as SSEResponse

__all__ = (
    "Bus",
    "Entry",
    "HistoryLost",
    "Hub",
    "HubStatistics",
    "MemoryBus",
    "Position",
    "Published",
    "RowsResponse",
    "SSEResponse",
    "ServerEvent",
)
