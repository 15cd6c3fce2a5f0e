"""Rows as an Arrow IPC stream: columns with types, for data frames (extra `arrow`)."""

import io
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from importlib import import_module
from typing import Any
from uuid import UUID

from stormproof.errors import MissingExtra

from ._row_encoder import RowEncoder, as_mapping


class Arrow:
    """Record batches of one schema.

    Args:
        columns: The columns and their order; None: those of the first rows, or of the schema.
        schema: A `pyarrow.Schema`; None: as pyarrow infers it from the first rows.

    Raises:
        MissingExtra: pyarrow is not installed.
    """

    media_type = "application/vnd.apache.arrow.stream"

    def __init__(self, columns: tuple[str, ...] | None, *, schema: Any) -> None:
        try:
            self._arrow = import_module("pyarrow")
        except ModuleNotFoundError as exc:
            raise MissingExtra(
                "RowsResponse(format='arrow') needs 'pyarrow'; install it with "
                "pip install 'stormproof[arrow]'"
            ) from exc
        self._columns = columns
        self._schema = schema
        self._written = io.BytesIO()
        self._writer: Any = None

    def head(self) -> bytes:
        """Return the schema if it was given."""
        return b"" if self._schema is None else self._opened(self._schema)

    def encode(self, rows: Sequence[Any]) -> bytes:
        """Return a record batch, and the schema before the first if it was not known."""
        mappings = [as_mapping(row) for row in rows]
        names = self._columns or (self._schema.names if self._schema else tuple(mappings[0]))
        columns = [self._array(name, mappings) for name in names]
        return self._batch(self._arrow.RecordBatch.from_arrays(columns, list(names)))

    def is_whole(self, item: Any) -> bool:
        """Return whether `item` is a record batch or a table, and no row."""
        return isinstance(item, self._arrow.RecordBatch | self._arrow.Table)

    def whole(self, item: Any) -> bytes:
        """Return the bytes of a record batch or a table."""
        batches = item.to_batches() if isinstance(item, self._arrow.Table) else (item,)
        return b"".join(self._batch(batch) for batch in batches)

    def tail(self) -> bytes:
        """Return the end mark; nothing when there is neither a schema nor a row."""
        if self._writer is None:
            return b""
        self._writer.close()
        return self._taken()

    def _array(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Any:
        kind = None if self._schema is None else self._schema.field(name).type
        return self._arrow.array([_value(row.get(name)) for row in rows], kind)

    def _batch(self, batch: Any) -> bytes:
        opening = b""
        if self._schema is None:
            self._schema = batch.schema
            opening = self._opened(batch.schema)
        elif batch.schema != self._schema:
            batch = batch.select(self._schema.names).cast(self._schema)
        self._writer.write_batch(batch)
        return opening + self._taken()

    def _opened(self, schema: Any) -> bytes:
        self._writer = self._arrow.ipc.new_stream(self._written, schema)
        return self._taken()

    def _taken(self) -> bytes:
        taken = self._written.getvalue()
        self._written.seek(0)
        self._written.truncate()
        return taken


class ArrowEncoder(RowEncoder):
    """Takes record batches and tables, too, and writes each as it is."""

    def __init__(self, format: Arrow) -> None:
        super().__init__(format)
        self._arrow = format

    def add(self, item: Any) -> Iterable[bytes]:
        """Take a row, a batch of rows, a record batch or a table; return the full chunks."""
        if not self._arrow.is_whole(item):
            return super().add(item)
        held = self.flush()
        return tuple(filter(None, (held, self._arrow.whole(item))))


def _value(value: Any) -> Any:
    """Return what pyarrow takes: UUIDs as text, members of an enumeration as their values."""
    if isinstance(value, UUID):
        return str(value)
    return value.value if isinstance(value, Enum) else value
