"""One server-sent event, and its bytes on the wire (WHATWG HTML, section 9.2)."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from stormproof.errors import InvalidSetting

from ._json import json_encoder
from ._typed import EventNames

_LINE_END = re.compile(r"\r\n|\n|\r")  # str.splitlines() would split at U+2028 and others, too


@dataclass(frozen=True, slots=True)
class ServerEvent:
    r"""One event of a stream.

    Args:
        data: A str is sent as it is, line by line; anything else but None as one line of JSON.
            None sends no data, and then a browser hands no event to the page.
        event: The event's type, one line; browsers call it "message" when it is None.
        id: Where the stream can be resumed: browsers send it back as `Last-Event-ID`.
        retry_ms: Milliseconds a browser waits before it connects again, from now on.
        comment: Text that browsers ignore.

    Raises:
        InvalidSetting: `event` or `id` holds a line end, `id` holds NUL, or `retry_ms` is not a
            whole number of 0 or more.

    versionadded: 0.1
    """

    data: Any = None
    event: str | None = None
    id: str | None = None
    retry_ms: int | None = None
    comment: str | None = None

    def __post_init__(self) -> None:
        for name, text, forbidden in (
            ("event", self.event, "\r\n"),
            ("id", self.id, "\r\n\0"),
        ):
            if text is not None and any(mark in text for mark in forbidden):
                raise InvalidSetting(
                    f"ServerEvent({name}={text!r}) must be one line without NUL: it would end "
                    f"the field early; put free text into data"
                )
        retry = self.retry_ms
        if retry is not None and (not isinstance(retry, int) or retry < 0):
            raise InvalidSetting(
                f"ServerEvent(retry_ms={retry!r}) must be a whole number of milliseconds, 0 or more"
            )

    def encode(self) -> bytes:
        """Return the event as bytes; a stream sends such bytes as they are.

        Encode once what a thousand subscribers get.
        """
        return encode_event(self, json_encoder())


def encode_event(event: ServerEvent, to_json: Callable[[Any], bytes]) -> bytes:
    """Return the bytes of `event`, the empty line at its end included."""
    lines = []
    if event.comment is not None:
        lines += [f": {line}" for line in _LINE_END.split(event.comment)]
    if event.event is not None:
        lines.append(f"event: {event.event}")
    if event.id is not None:
        lines.append(f"id: {event.id}")
    if event.retry_ms is not None:
        lines.append(f"retry: {event.retry_ms}")
    if event.data is not None:
        text = event.data if isinstance(event.data, str) else to_json(event.data).decode()
        lines += [f"data: {line}" for line in _lines(text)]
    return "".join(f"{line}\n" for line in (*lines, "")).encode()


def encode_item(item: Any, to_json: Callable[[Any], bytes], names: EventNames) -> bytes:
    """Return the bytes of what a source yields.

    A ServerEvent as itself, bytes as they are (one or more encoded events), a str as its text,
    anything else as JSON; a typed event under its name.
    """
    if isinstance(item, ServerEvent):
        if item.event is None and (name := names.of(item.data)) is not None:
            item = replace(item, event=name)
        return encode_event(item, to_json)
    if isinstance(item, bytes):
        return whole_event(item)
    if item is None:
        return b"\n"
    if isinstance(item, str):
        return "".join([*(f"data: {line}\n" for line in _lines(item)), "\n"]).encode()
    return json_event(to_json(item), names.of(item))


def json_event(line: bytes, name: str | None) -> bytes:
    """Return the event `name` with `line`, JSON without line ends, as its data."""
    if name is None:
        return b"data: " + line + b"\n\n"
    return b"event: " + name.encode() + b"\ndata: " + line + b"\n\n"


def whole_event(encoded: bytes) -> bytes:
    """Return `encoded`, one or more events.

    Raises:
        InvalidSetting: It does not end with an empty line.
    """
    if not encoded.endswith((b"\n\n", b"\r\r", b"\r\n\r\n")):
        raise InvalidSetting(
            f"a stream's source yielded bytes that are no whole event ({encoded[:40]!r}): they "
            f"do not end with an empty line; yield a str or ServerEvent.encode()"
        )
    return encoded


def _lines(text: str) -> list[str]:
    if "\n" in text or "\r" in text:
        return _LINE_END.split(text)
    return [text]
