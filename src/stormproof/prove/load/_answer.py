"""Answers: an incremental HTTP/1.1 parser that tells how the framing ended; it does no I/O."""

from collections.abc import Callable, Mapping
from typing import Final

KEPT_HEADERS: Final = frozenset(
    {
        "cache-control",
        "connection",
        "content-type",
        "retry-after",
        "transfer-encoding",
        "x-accel-buffering",
    }
)
_READ_HEADERS = KEPT_HEADERS | {"content-length"}

_MOST_HEAD_BYTES = 65536
_MOST_LINE_BYTES = 8192

Sink = Callable[[bytes], object]


class MalformedAnswer(ValueError):
    """The bytes are no HTTP/1.1 answer; the message says where it went wrong."""


class AnswerParser:
    """Reads one answer after another on one connection.

    Attributes:
        status: 0 until a whole head has come; interim answers (1xx) are passed over.
        headers: Those that audits read, by lower-case name.
        size_bytes: Of the body, as far as it has come, without its framing.
        is_complete: Whether the answer is whole.
        has_final_chunk: Whether the framing itself said so: the last chunk, or all of
            Content-Length. An answer that ends with its connection never has it.
        is_kept: Whether the server keeps the connection open after this answer.
    """

    def __init__(self) -> None:
        self._data = b""
        self._at = 0
        self.begin("GET")

    def begin(self, method: str, sink: Sink | None = None) -> None:
        """Get ready for the answer to a request of `method`; `sink` is given the body's bytes."""
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.size_bytes = 0
        self.is_complete = False
        self.has_final_chunk = False
        self.is_kept = False
        self._method = method
        self._sink = sink
        self._left = 0
        self._step: Callable[[], bool] = self._read_head

    @property
    def has_begun(self) -> bool:
        """Whether a byte of the answer has come."""
        return self.status != 0 or self._at < len(self._data)

    @property
    def has_leftover(self) -> bool:
        """Whether bytes have come that belong to no answer yet."""
        return self._at < len(self._data)

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; returns whether the answer is complete.

        Raises:
            MalformedAnswer: They are no HTTP/1.1 answer.
        """
        self._data = self._data[self._at :] + data if self._at < len(self._data) else data
        self._at = 0
        while not self.is_complete and self._step():
            pass
        return self.is_complete

    def end_of_input(self) -> bool:
        """Take note that the connection was closed; returns whether that completes the answer."""
        if self._step == self._read_to_the_end:
            self.is_complete = True
        return self.is_complete

    def _read_head(self) -> bool:
        data = self._data
        end = data.find(b"\r\n\r\n", self._at)
        if end < 0:
            self._check_start()
            return False
        first, *lines = data[self._at : end].decode("latin-1").split("\r\n")
        self._at = end + 4
        status = _status(first)
        if 100 <= status < 200 and status != 101:
            return self._at < len(data)
        fields = _fields(lines)
        self.status = status
        self._frame(fields, is_old=first.startswith("HTTP/1.0"))
        fields.pop("content-length", None)
        self.headers = fields
        return True

    def _check_start(self) -> None:
        start = self._data[self._at : self._at + 7]
        if not b"HTTP/1.".startswith(start):
            raise MalformedAnswer(f"not HTTP/1.1: {self._data[self._at : self._at + 40]!r}")
        if len(self._data) - self._at > _MOST_HEAD_BYTES:
            raise MalformedAnswer(f"a head of more than {_MOST_HEAD_BYTES} bytes")

    def _frame(self, fields: Mapping[str, str], *, is_old: bool) -> None:
        connection = fields.get("connection", "").lower()
        self.is_kept = "keep-alive" in connection if is_old else "close" not in connection
        if self.status == 101:
            self.is_kept = False
        if self._method == "HEAD" or self.status in (101, 204, 304):
            self._finish()
        elif "chunked" in fields.get("transfer-encoding", "").lower():
            self._step = self._read_chunk_size
        elif "content-length" in fields:
            self._left = _length(fields["content-length"])
            self._step = self._read_length
            if self._left == 0:
                self._finish()
        else:
            self.is_kept = False
            self._step = self._read_to_the_end

    def _finish(self) -> None:
        self.is_complete = self.has_final_chunk = True

    def _read_length(self) -> bool:
        self._take_body()
        if self._left == 0:
            self._finish()
        return False

    def _read_to_the_end(self) -> bool:
        self._left = len(self._data)
        self._take_body()
        return False

    def _read_chunk_size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        try:
            self._left = int(line.partition(b";")[0], 16)
        except ValueError:
            self._left = -1
        if self._left < 0:
            raise MalformedAnswer(f"no size of a chunk but {line[:40]!r}")
        self._step = self._read_chunk if self._left > 0 else self._read_trailer
        return True

    def _read_chunk(self) -> bool:
        self._take_body()
        if self._left == 0:
            self._step = self._read_chunk_end
        return self._at < len(self._data)

    def _read_chunk_end(self) -> bool:
        end = self._data[self._at : self._at + 2]
        if not b"\r\n".startswith(end):
            raise MalformedAnswer(f"no end of a chunk but {end!r}")
        if len(end) < 2:
            return False
        self._at += 2
        self._step = self._read_chunk_size
        return True

    def _read_trailer(self) -> bool:
        line = self._line()
        if line == b"":
            self._finish()
        return line is not None

    def _take_body(self) -> None:
        took = min(self._left, len(self._data) - self._at)
        if took and self._sink is not None:
            self._sink(self._data[self._at : self._at + took])
        self._at += took
        self._left -= took
        self.size_bytes += took

    def _line(self) -> bytes | None:
        end = self._data.find(b"\r\n", self._at)
        if end < 0:
            if len(self._data) - self._at > _MOST_LINE_BYTES:
                raise MalformedAnswer(f"a line of more than {_MOST_LINE_BYTES} bytes")
            return None
        line = self._data[self._at : end]
        self._at = end + 2
        return line


def _status(line: str) -> int:
    if line.startswith("HTTP/1.") and line[9:12].isdigit():
        return int(line[9:12])
    raise MalformedAnswer(f"not HTTP/1.1: {line[:40]!r}")


def _fields(lines: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name = name.lower()
        if name in _READ_HEADERS:
            found[name] = f"{found[name]}, {value.strip()}" if name in found else value.strip()
    return found


def _length(text: str) -> int:
    first, _, rest = text.partition(",")
    if not (first.isascii() and first.isdigit()) or any(
        part.strip() != first for part in rest.split(",") if rest
    ):
        raise MalformedAnswer(f"a Content-Length of {text[:40]!r}")
    return int(first)
