"""Rows as CSV (RFC 4180), with a header row."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from stormproof.errors import InvalidSetting

from ._json import json_encoder, plain
from ._row_encoder import as_mapping

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes for a formula, full-width forms included (OWASP, CSV injection)."""

_AS_THEY_ARE = frozenset((str, int, type(None)))


class CSV:
    """Lines of cells; what JSON writes as text is written as the same text here.

    Args:
        columns: The columns and their order; None: those of the first row.
        escapes_formulas: Whether text that a spreadsheet would run gets a quote before it.
    """

    media_type = "text/csv; charset=utf-8"

    def __init__(self, columns: tuple[str, ...] | None, *, escapes_formulas: bool) -> None:
        self._columns = columns
        self._accepts_others = columns is not None
        self._escapes_formulas = escapes_formulas
        self._text = io.StringIO()
        self._writer = csv.writer(self._text)
        self._to_json = json_encoder()

    def head(self) -> bytes:
        """Return the header row if the columns are known."""
        return b"" if self._columns is None else self._header(self._columns)

    def encode(self, rows: Sequence[Any]) -> bytes:
        """Return a line for each row, and the header before the first if it was not known."""
        header, columns = b"", self._columns
        if columns is None:
            columns = self._columns = tuple(as_mapping(rows[0]))
            header = self._header(columns)
        self._writer.writerows(self._cells(as_mapping(row), columns) for row in rows)
        return header + self._taken()

    def tail(self) -> bytes:
        """Return nothing."""
        return b""

    def _header(self, columns: tuple[str, ...]) -> bytes:
        self._writer.writerow([self._cell(column) for column in columns])
        return self._taken()

    def _cells(self, row: Mapping[str, Any], columns: tuple[str, ...]) -> list[Any]:
        if tuple(row) == columns:
            values = list(row.values())
        else:
            self._check(row, columns)
            values = [row.get(column) for column in columns]
        if self._escapes_formulas:
            return [self._cell(value) for value in values]
        return [value if type(value) in _AS_THEY_ARE else self._cell(value) for value in values]

    def _cell(self, value: Any) -> Any:
        """Return what the writer is to write: the text that JSON has for `value`, unquoted."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, Enum):
            value = value.value
        if isinstance(value, str):
            is_formula = self._escapes_formulas and value.startswith(_FORMULA_STARTS)
            return f"'{value}" if is_formula else value
        if not isinstance(value, int | None | list | tuple | dict):
            value = plain(value)
        return self._to_json(value).decode() if isinstance(value, list | tuple | dict) else value

    def _check(self, row: Mapping[str, Any], columns: tuple[str, ...]) -> None:
        if not self._accepts_others and any(key not in columns for key in row):
            raise InvalidSetting(
                f"a row of a CSV export has the columns {', '.join(row)}, the first row had "
                f"{', '.join(columns)}; pass columns=... to say what to write"
            )

    def _taken(self) -> bytes:
        taken = self._text.getvalue()
        self._text.seek(0)
        self._text.truncate()
        return taken.encode()
