"""Streams: server-sent events and row exports that end politely, and never look whole when cut."""

from ._event import ServerEvent as ServerEvent
from ._exports import Exports as Exports
from ._rows import RowsResponse as RowsResponse
from ._sse import SSEResponse as SSEResponse

__all__ = ("Exports", "RowsResponse", "SSEResponse", "ServerEvent")
