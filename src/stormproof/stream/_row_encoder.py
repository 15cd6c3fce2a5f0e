"""Row encoders: gather rows, one by one or in batches, into chunks of a good size."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from stormproof.errors import InvalidSetting

_LEAST_BYTES = 16_384
"""A chunk is held until it has so many bytes: a send costs as much as encoding 100 rows."""

_GOOD_BYTES = 32_768
"""What a slice of rows is to become."""

_FIRST_ROWS = 64
_MOST_ROWS = 500
"""Rows encoded at once: about 2 ms of the loop as CSV, 0.1 ms as JSON through orjson."""


class Format(Protocol):
    """How rows are written: `NDJSON`, `CSV` or Arrow."""

    media_type: str

    def head(self) -> bytes:
        """Return what comes before the first row, as far as it is known without one."""

    def encode(self, rows: Sequence[Any]) -> bytes:
        """Return the bytes of `rows`, of which there is at least one."""

    def tail(self) -> bytes:
        """Return what comes after the last row."""


class RowEncoder:
    """The bytes of rows, in chunks of 16 to 64 kB as long as a row has less than 16.

    Args:
        format: How rows are written; for one export.

    Attributes:
        media_type: What a response of these bytes is to say of them.
    """

    def __init__(self, format: Format) -> None:
        self.media_type = format.media_type
        self._format = format
        self._rows: list[Any] = []  # not encoded yet
        self._parts = [format.head()]  # encoded, not given out yet
        self._bytes = len(self._parts[0])
        self._at_once = _FIRST_ROWS
        self._has_rows = False

    def add(self, item: Any) -> Iterable[bytes]:
        """Take a row or a batch, and return the chunks that are full; each is encoded lazily."""
        self._has_rows = True
        if type(item) is dict:
            self._rows.append(item)
        else:
            self._rows += rows_of(item)
        return self._full() if len(self._rows) >= self._at_once else ()

    def flush(self) -> bytes:
        """Return what is held; nothing before the first row came."""
        if not self._has_rows:
            return b""
        if self._rows:
            rows, self._rows = self._rows, []
            self._keep(rows)
        return self._taken()

    def close(self) -> bytes:
        """Return what is held and the end of the export."""
        self._has_rows = True
        return self.flush() + self._format.tail()

    def _full(self) -> Iterable[bytes]:
        rows, self._rows = self._rows, []
        first = 0
        while len(rows) - first >= self._at_once:
            part = rows[first : first + self._at_once]
            first += len(part)
            self._keep(part)
            if self._bytes >= _LEAST_BYTES:
                yield self._taken()
        self._rows = rows[first:]

    def _keep(self, rows: Sequence[Any]) -> None:
        encoded = self._format.encode(rows)
        self._parts.append(encoded)
        self._bytes += len(encoded)
        fitting = _GOOD_BYTES * len(rows) // max(1, len(encoded))
        self._at_once = max(1, min(_MOST_ROWS, fitting))

    def _taken(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts, self._bytes = [], 0
        return taken


def rows_of(item: Any) -> Iterable[Any]:
    """Return the rows of what a source yields: of a batch its rows, of a row itself."""
    if isinstance(item, list):
        return item
    if isinstance(item, str | bytes):
        raise InvalidSetting(
            f"a source of rows yielded {type(item).__name__} ({item[:40]!r}); a row is a mapping, "
            f"a dataclass, a model or a named tuple, and a batch is a sequence of them"
        )
    is_batch = isinstance(item, Sequence) and not hasattr(item, "_fields")
    return item if is_batch else (item,)


def as_mapping(row: Any) -> Mapping[str, Any]:
    """Return `row` as a mapping from column to value; models by their fields, not as JSON."""
    if isinstance(row, Mapping):
        return row
    for method in ("_asdict", "model_dump"):  # named tuples and rows of SQLAlchemy; pydantic
        give: Callable[[], Mapping[str, Any]] | None = getattr(row, method, None)
        if give is not None:
            return give()
    names = getattr(row, "__dataclass_fields__", None)
    if names is None:
        raise InvalidSetting(
            f"a source of rows yielded {type(row).__name__}; a row is a mapping, a dataclass, a "
            f"model or a named tuple. Of entities, give RowsResponse the stream itself, or its "
            f"mappings()"
        )
    return {name: getattr(row, name) for name in names}
