"""`RowsResponse`: rows as NDJSON or CSV, batch by batch, never complete unless they all came."""

import csv
import io
from collections.abc import AsyncIterable, Callable, Iterator, Mapping, Sequence
from datetime import date, time
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

from starlette.responses import Response

from stormproof._core.asgi import Receive, Scope, Send, request_name
from stormproof.errors import InvalidSetting

from ._answer import answer_head, deliver
from ._delivery import Plan
from ._json import json_encoder
from ._sse import check_seconds, check_source

Row: TypeAlias = Mapping[str, Any]

_ROWS_PER_SEND = 500
"""Rows encoded at once: about 2 ms of the loop as CSV, 0.5 ms as JSON through orjson."""

_MEDIA_TYPES = {"ndjson": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}


class RowsResponse(Response):
    """An export of rows; return it from an endpoint.

    The next batch is asked for when the one before was taken: a slow reader slows the source
    down, and at most one batch is held (beside the server's own buffer). When the source
    raises, or the reader takes nothing for `send_timeout` seconds, or the request is cancelled,
    the body ends without its final chunk: a client that checks sees a broken transfer, and a
    part of an export never looks whole. The source is closed and awaited however it ends. A
    drain lets an export finish, as long as its grace lasts.

    Args:
        batches: Sequences of rows, each a mapping from column to value; some hundred rows per
            batch are a good size, and an empty batch is none.
        format: "ndjson", one JSON object per line, or "csv" (RFC 4180, with a header row).
        columns: The columns and their order; other keys are left out, missing ones are null or
            empty. None: NDJSON writes each row as it is; CSV takes the keys of the first row,
            and a later row with another key is an error. CSV without rows has a header only if
            columns are given.
        filename: The name a browser saves under; None lets it show the rows.
        send_timeout: Seconds the reader may take nothing.
        headers: More response headers; one of the same name replaces ours.
        status_code: The status of the response.

    Raises:
        InvalidSetting: An argument is out of its range.

    versionadded: 0.1
    """

    def __init__(
        self,
        batches: AsyncIterable[Sequence[Row]],
        *,
        format: Literal["ndjson", "csv"] = "ndjson",
        columns: Sequence[str] | None = None,
        filename: str | None = None,
        send_timeout: float = 30.0,
        headers: Mapping[str, str] | None = None,
        status_code: int = 200,
    ) -> None:
        check_source("RowsResponse", batches)
        check_seconds("RowsResponse", "send_timeout", send_timeout)
        if format not in _MEDIA_TYPES:
            raise InvalidSetting(f"RowsResponse(format={format!r}) must be 'ndjson' or 'csv'")
        if columns is not None and (isinstance(columns, str) or not columns):
            raise InvalidSetting(f"RowsResponse(columns={columns!r}) must be names of columns")
        self._batches = batches
        self._format = format
        self._columns = None if columns is None else tuple(columns)
        self._send_timeout = send_timeout
        self.status_code = status_code
        self.media_type = _MEDIA_TYPES[format]
        self.background = None
        self.init_headers(headers)
        self.headers.setdefault("cache-control", "no-store")
        if filename is not None:
            self.headers.setdefault("content-disposition", _attachment(filename))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response; ends, raises and cleans up as the class says. HEAD: headers only."""
        plan = self._plan(scope)
        if scope["method"] == "HEAD":
            await answer_head(plan, send)
        else:
            await deliver(plan, scope, receive, send, leaves_on_drain=False)
        if self.background is not None:
            await self.background()

    def _plan(self, scope: Scope) -> Plan:
        is_csv = self._format == "csv"
        encode = _CsvEncoder(self._columns) if is_csv else _json_lines(self._columns)
        return Plan(
            name=request_name(scope),
            source=self._batches,
            encode=lambda batch: map(encode, _slices(batch)),
            start={
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            },
            opening=encode.header() if isinstance(encode, _CsvEncoder) else b"",
            send_timeout=self._send_timeout,
        )


class _CsvEncoder:
    """Encodes rows as CSV; the header comes with the first rows, or before them."""

    def __init__(self, columns: tuple[str, ...] | None) -> None:
        self._columns = columns
        self._accepts_others = columns is not None
        self._text = io.StringIO()
        self._writer = csv.writer(self._text)

    def header(self) -> bytes:
        if self._columns is not None:
            self._writer.writerow(self._columns)
        return self._taken()

    def __call__(self, rows: Sequence[Row]) -> bytes:
        if self._columns is None:
            self._columns = tuple(rows[0])
            self._writer.writerow(self._columns)
        for row in rows:
            self._check(row)
            self._writer.writerow([_cell(row.get(column)) for column in self._columns])
        return self._taken()

    def _check(self, row: Row) -> None:
        if not self._accepts_others and any(key not in (self._columns or ()) for key in row):
            raise InvalidSetting(
                f"a row of a CSV export has the columns {', '.join(row)}, the first row had "
                f"{', '.join(self._columns or ())}; pass columns=... to say what to write"
            )

    def _taken(self) -> bytes:
        taken = self._text.getvalue()
        self._text.seek(0)
        self._text.truncate()
        return taken.encode()


def _json_lines(columns: tuple[str, ...] | None) -> Callable[[Sequence[Row]], bytes]:
    to_json = json_encoder()

    def encode(rows: Sequence[Row]) -> bytes:
        lines: Iterator[Any] = iter(rows)
        if columns is not None:
            lines = ({column: row.get(column) for column in columns} for row in rows)
        return b"".join(to_json(line) + b"\n" for line in lines)

    return encode


def _slices(batch: Sequence[Row]) -> Iterator[Sequence[Row]]:
    return (batch[at : at + _ROWS_PER_SEND] for at in range(0, len(batch), _ROWS_PER_SEND))


def _cell(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date | time) else value


def _attachment(filename: str) -> str:
    """Return the content-disposition for `filename` (RFC 6266; RFC 8187 when it is not plain)."""
    quoted = quote(filename, safe="")
    if quoted == filename:
        return f'attachment; filename="{filename}"'
    return f"attachment; filename*=utf-8''{quoted}"
