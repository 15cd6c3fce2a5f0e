"""Streams: server-sent events and row exports that end politely, and never look whole when cut."""

from ._event import ServerEvent as ServerEvent
from ._rows import RowsResponse as RowsResponse
from ._sse import SSEResponse as SSEResponse

__all__ = ("RowsResponse", "SSEResponse", "ServerEvent")
