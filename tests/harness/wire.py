"""HTTP/1.1 answers as bytes arrive: the head, the framing, and whether the body was whole."""

from dataclasses import dataclass
from typing import Literal

Ended = Literal["complete", "truncated", "reset", "refused", "timed_out"]


class MalformedAnswer(ValueError):
    """The server sent bytes that are no HTTP/1.1 answer."""


@dataclass(frozen=True, slots=True)
class Head:
    """The status and the headers; names are lower case, repeated values are joined by ", "."""

    status: int
    headers: dict[str, str]


class AnswerReader:
    """One answer, read incrementally; it does no I/O.

    Attributes:
        head: The final head (1xx answers are skipped), or None as long as it is not whole.
        is_complete: Whether the framing says that the body is over.
    """

    def __init__(self, method: str = "GET") -> None:
        self.head: Head | None = None
        self.is_complete = False
        self._method = method
        self._unread = bytearray()
        self._state: Literal["head", "size", "data", "gap", "trailer", "until_close"] = "head"
        self._is_chunked = False
        self._left_bytes = 0

    @property
    def leftover(self) -> bytes:
        """The bytes after the end of the answer."""
        return bytes(self._unread)

    def feed(self, received: bytes) -> bytes:
        """Take bytes from the socket and return the body bytes they decode to."""
        self._unread += received
        body = bytearray()
        while not self.is_complete and self._step(body):
            pass
        return bytes(body)

    def end_of_input(self) -> Ended:
        """Return how the answer ended, given that the server closed the connection now."""
        if self._state == "until_close":
            return "complete"
        return "complete" if self.is_complete else "truncated"

    def _step(self, body: bytearray) -> bool:
        """Make one step and return whether another may follow without more bytes."""
        match self._state:
            case "head":
                return self._step_head()
            case "size":
                return self._step_size()
            case "data":
                return self._step_data(body)
            case "gap":
                return self._step_gap()
            case "trailer":
                return self._step_trailer()
            case "until_close":
                body += self._unread
                self._unread.clear()
                return False

    def _step_head(self) -> bool:
        end = self._unread.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = _parse_head(bytes(self._unread[:end]))
        del self._unread[: end + 4]
        if 100 <= head.status < 200 and head.status != 101:
            return True
        self.head = head
        self._choose_framing(head)
        return True

    def _choose_framing(self, head: Head) -> None:
        # RFC 9112, section 6.3, in its order of precedence.
        if self._method == "HEAD" or head.status in (101, 204, 304):
            self.is_complete = True
        elif head.headers.get("transfer-encoding", "").lower().endswith("chunked"):
            self._is_chunked = True
            self._state = "size"
        elif "content-length" in head.headers:
            self._left_bytes = _number(head.headers["content-length"], 10)
            self._state = "data"
            self.is_complete = self._left_bytes == 0
        else:
            self._state = "until_close"

    def _step_size(self) -> bool:
        line = self._take_line()
        if line is None:
            return False
        self._left_bytes = _number(line.partition(b";")[0].strip().decode("latin-1"), 16)
        self._state = "data" if self._left_bytes else "trailer"
        return True

    def _step_data(self, body: bytearray) -> bool:
        taken = self._unread[: self._left_bytes]
        del self._unread[: len(taken)]
        body += taken
        self._left_bytes -= len(taken)
        if self._left_bytes:
            return False
        if self._is_chunked:
            self._state = "gap"
        else:
            self.is_complete = True
        return True

    def _step_gap(self) -> bool:
        if len(self._unread) < 2:
            return False
        if self._unread[:2] != b"\r\n":
            raise MalformedAnswer(f"no line end after a chunk but {bytes(self._unread[:20])!r}")
        del self._unread[:2]
        self._state = "size"
        return True

    def _step_trailer(self) -> bool:
        line = self._take_line()
        self.is_complete = line == b""
        return line is not None

    def _take_line(self) -> bytes | None:
        end = self._unread.find(b"\r\n")
        if end < 0:
            return None
        line = bytes(self._unread[:end])
        del self._unread[: end + 2]
        return line


def _parse_head(raw: bytes) -> Head:
    first, *lines = raw.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise MalformedAnswer(f"no HTTP/1.1 status line but {first[:80]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        key = name.lower()
        headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    return Head(_number(rest[:3], 10), headers)


def _number(text: str, base: int) -> int:
    try:
        return int(text, base)
    except ValueError:
        raise MalformedAnswer(f"no number of base {base} but {text[:80]!r}") from None
