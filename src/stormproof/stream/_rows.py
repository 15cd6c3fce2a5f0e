"""`RowsResponse`: rows as NDJSON, CSV or Arrow, never complete unless they all came."""

from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, cast
from urllib.parse import quote

from starlette.responses import Response

from stormproof._arguments import check_seconds
from stormproof._core.asgi import Receive, Scope, Send, request_name
from stormproof.errors import InvalidSetting

from ._answer import answer_head, deliver
from ._arrow import Arrow, ArrowEncoder
from ._csv import CSV
from ._delivery import Plan
from ._ndjson import NDJSON
from ._row_encoder import RowEncoder
from ._sse import check_source

FormatName: TypeAlias = Literal["ndjson", "csv", "arrow"]

LINGER = 0.05
"""Seconds that rows are held while the source is silent."""


class HasMappings(Protocol):
    """A query that is read page by page, for example `Database.stream(...)`."""

    def mappings(self) -> AsyncIterable[Sequence[Mapping[str, Any]]]:
        """Give the rows as mappings, in batches."""


RowSource: TypeAlias = AsyncIterable[Any] | HasMappings


class RowsResponse(Response):
    """An export of rows; return it from an endpoint.

    Rows are encoded in chunks of 16 to 64 kB; what the source has yielded waits at most 50 ms
    for more. The next row or batch is asked for when the chunk before was taken, so a slow
    reader slows the source down, and at most one batch and its bytes are held (beside the
    server's own buffer).

    Nothing is sent before the first chunk is there: a source that raises before that is answered
    like any endpoint that raises. Once the body is under way and the source raises, or is silent
    for `idle_timeout` seconds, or the reader takes nothing for `send_timeout` seconds, or the
    request is cancelled, the body ends without its final chunk: a client that checks sees a
    broken transfer, and a part of an export never looks whole. The source is closed and awaited
    however it ends. A drain lets an export finish, as long as its grace lasts.

    Args:
        source: Rows or batches of rows, in any mixture. A row is a mapping from column to
            value, a dataclass, a pydantic model or a named tuple; a batch is a sequence of
            rows, some hundred are a good size. For "arrow" a `pyarrow.RecordBatch` or `Table`,
            too. What has a method `mappings`, as `Database.stream(query)`, is asked for them.
        format: "ndjson", one JSON object per line; "csv" (RFC 4180, with a header row); "arrow",
            an Arrow IPC stream (extra `arrow`).
        columns: The columns and their order; other keys are left out, missing ones are null or
            empty. None: NDJSON writes each row as it is; CSV and Arrow take the keys of the first
            row, and for CSV a later row with another key is an error. CSV without rows has a
            header only if columns are given.
        filename: The name a browser saves under; None lets it show the rows.
        escape_formulas: For "csv": text that a spreadsheet takes for a formula gets a `'` before.
        schema: For "arrow": a `pyarrow.Schema`; None infers it from the first rows, and a later
            row of another type breaks the export.
        send_timeout: Seconds the reader may take nothing.
        idle_timeout: Seconds the source may take for a row or batch; None for any number.
        headers: More response headers; one of the same name replaces ours.
        status_code: The status of the response.

    Raises:
        InvalidSetting: An argument is out of its range.
        MissingExtra: "arrow" without pyarrow.

    versionadded: 0.1
    """

    def __init__(
        self,
        source: RowSource,
        *,
        format: FormatName = "ndjson",
        columns: Sequence[str] | None = None,
        filename: str | None = None,
        escape_formulas: bool = False,
        schema: Any = None,
        send_timeout: float = 30.0,
        idle_timeout: float | None = 60.0,
        headers: Mapping[str, str] | None = None,
        status_code: int = 200,
    ) -> None:
        check_seconds("RowsResponse", send_timeout=send_timeout)
        check_seconds("RowsResponse", or_none=True, idle_timeout=idle_timeout)
        self._source = items_of("RowsResponse", source)
        self._encoder = row_encoder(
            "RowsResponse", format, columns, escape_formulas=escape_formulas, schema=schema
        )
        self._send_timeout = send_timeout
        self._idle_timeout = idle_timeout
        self.status_code = status_code
        self.media_type = self._encoder.media_type
        self.background = None
        self.init_headers(headers)
        self.headers.setdefault("cache-control", "no-store")
        if filename is not None:
            self.headers.setdefault("content-disposition", attachment(filename))

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
        encoder = self._encoder
        return Plan(
            name=request_name(scope),
            source=self._source,
            encode=encoder.add,
            start={
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            },
            opening=None,
            closing=encoder.close,
            flush=encoder.flush,
            linger=LINGER,
            send_timeout=self._send_timeout,
            idle_timeout=self._idle_timeout,
        )


def row_encoder(
    owner: str,
    name: FormatName,
    columns: Sequence[str] | None,
    *,
    escape_formulas: bool,
    schema: Any,
) -> RowEncoder:
    """Return how rows are written, for one export."""
    if columns is not None and (isinstance(columns, str) or not columns):
        raise InvalidSetting(f"{owner}(columns={columns!r}) must be names of columns")
    if schema is not None and name != "arrow":
        raise InvalidSetting(f"{owner}(schema=...) is for format='arrow'; got {name!r}")
    if escape_formulas and name != "csv":
        raise InvalidSetting(f"{owner}(escape_formulas=True) is for format='csv'; got {name!r}")
    chosen = None if columns is None else tuple(columns)
    match name:
        case "ndjson":
            return RowEncoder(NDJSON(chosen))
        case "csv":
            return RowEncoder(CSV(chosen, escapes_formulas=escape_formulas))
        case "arrow":
            return ArrowEncoder(Arrow(chosen, schema=schema))
    raise InvalidSetting(f"{owner}(format={name!r}) must be 'ndjson', 'csv' or 'arrow'")


def items_of(owner: str, source: RowSource) -> AsyncIterable[Any]:
    """Return what is to be iterated for the rows of `source`."""
    mappings: Callable[[], AsyncIterable[Any]] | None = getattr(source, "mappings", None)
    items: Any = source if mappings is None else mappings()
    check_source(owner, items)
    return cast("AsyncIterable[Any]", items)


def attachment(filename: str) -> str:
    """Return the content-disposition for `filename` (RFC 6266; RFC 8187 when it is not plain)."""
    quoted = quote(filename, safe="")
    if quoted == filename:
        return f'attachment; filename="{filename}"'
    return f"attachment; filename*=utf-8''{quoted}"
