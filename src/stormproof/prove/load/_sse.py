"""Server-sent events out of bytes, as far as audits look at them; it does no I/O."""

import re
from typing import NamedTuple

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MOST_LINE_BYTES = 65536
"""Of a longer line the rest is dropped: audits look at names, not at data."""


class StreamEvent(NamedTuple):
    """One block of an event stream.

    Attributes:
        at: When its end came.
        event: Its name; `message` where it has data and no name, else "".
        has_data: Whether it has data: a browser's listener is called for it.
        retry: Milliseconds until the browser may come again; None: not said.
        is_comment: Whether it holds comments alone, as a heartbeat does.
    """

    at: float
    event: str
    has_data: bool
    retry: int | None
    is_comment: bool


class EventParser:
    """Reads one event stream (WHATWG HTML, section 9.2.6)."""

    def __init__(self) -> None:
        self._unread = b""
        self._lines: list[bytes] = []
        self._is_first = True

    def feed(self, received: bytes, *, at: float) -> list[StreamEvent]:
        """Take bytes that came at that time, and return the blocks they complete."""
        received = self._unread + received
        # A "\r" at the very end may be half of "\r\n": it waits for the next byte.
        held = b"\r" if received.endswith(b"\r") else b""
        *lines, rest = _LINE_END.split(received.removesuffix(held))
        self._unread = rest[:_MOST_LINE_BYTES] + held
        if lines and self._is_first:
            self._is_first = False
            lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
        blocks = []
        for line in lines:
            if line:
                self._lines.append(line[:_MOST_LINE_BYTES])
            elif self._lines:
                blocks.append(_block(self._lines, at))
                self._lines = []
        return blocks


def _block(lines: list[bytes], at: float) -> StreamEvent:
    name, retry = "", None
    has_data, is_comment = False, True
    for line in lines:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        is_comment = is_comment and not field
        has_data = has_data or field == b"data"
        if field == b"event":
            name = value.decode(errors="replace")
        elif field == b"retry" and value.isdigit():
            retry = int(value)
    return StreamEvent(at, name or ("message" if has_data else ""), has_data, retry, is_comment)
