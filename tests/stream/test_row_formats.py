"""What is written for a value, and that it is the same text in NDJSON and CSV."""

import csv
import io
import json
import sys
from collections import namedtuple
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from stormproof.errors import InvalidSetting, MissingExtra
from stormproof.stream import RowsResponse
from stormproof.stream._ndjson import NDJSON

from .asgi import Server, scope


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: int


class Model(BaseModel):
    x: int
    y: int


Named = namedtuple("Named", ["x", "y"])

NAIVE = datetime(2026, 1, 2)
AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)

# What goes in, what NDJSON says, what CSV says, what Arrow gives back.
VALUES: dict[str, tuple[Any, Any, str, Any]] = {
    "none": (None, None, "", None),
    "true": (True, True, "true", True),
    "int": (7, 7, "7", 7),
    "float": (0.1, 0.1, "0.1", 0.1),
    "nan": (float("nan"), None, "", ...),
    "infinity": (float("inf"), None, "", float("inf")),
    "text": ('a,"\n', 'a,"\n', 'a,"\n', 'a,"\n'),
    "decimal": (Decimal("1.10"), "1.10", "1.10", Decimal("1.10")),
    "at": (AT, "2026-01-02T03:04:05.000006+00:00", "2026-01-02T03:04:05.000006+00:00", AT),
    "naive": (NAIVE, "2026-01-02T00:00:00", "2026-01-02T00:00:00", NAIVE),
    "day": (date(2026, 1, 2), "2026-01-02", "2026-01-02", date(2026, 1, 2)),
    "time": (time(1, 2, 3), "01:02:03", "01:02:03", time(1, 2, 3)),
    "uuid": (UUID(int=1), str(UUID(int=1)), str(UUID(int=1)), str(UUID(int=1))),
    "bytes": (b"\x00\xff+", "AP8r", "AP8r", b"\x00\xff+"),
    "enum": (Colour.RED, "red", "red", "red"),
    "list": ([1, "a"], [1, "a"], '[1,"a"]', ...),
    "object": ({"a": None}, {"a": None}, '{"a":null}', {"a": None}),
}  # fmt: skip


async def body_of(*items: Any, **arguments: Any) -> bytes:
    async def source() -> AsyncIterator[Any]:
        for item in items:
            yield item

    server = Server()
    await RowsResponse(source(), **arguments)(scope(), server.receive, server.send)
    assert server.is_complete
    return server.body


async def test_values_are_written_as_the_table_says() -> None:
    row = {name: value for name, (value, *_) in VALUES.items()}
    assert json.loads(await body_of(row)) == {name: said[1] for name, said in VALUES.items()}
    written = (await body_of(row, format="csv")).decode()
    header, cells = csv.reader(io.StringIO(written, newline=""))
    assert dict(zip(header, cells, strict=True)) == {name: said[2] for name, said in VALUES.items()}
    del row["list"]
    (read,) = pa.ipc.open_stream(await body_of(row, format="arrow")).read_all().to_pylist()
    assert read == {name: read[name] if VALUES[name][3] is ... else VALUES[name][3] for name in row}


@pytest.mark.parametrize("format", ["ndjson", "csv", "arrow"])
async def test_a_row_may_be_anything_with_named_fields(format: Any) -> None:
    rows = [{"x": 1, "y": 2}, Point(1, 2), Model(x=1, y=2), Named(1, 2)]
    one_by_one = await body_of(*rows, format=format)
    assert one_by_one == await body_of(rows, format=format)
    assert one_by_one == await body_of([rows[0]] * 4, format=format)


async def test_items_that_are_no_rows_are_refused() -> None:
    for item in ("text", b"bytes", object()):
        with pytest.raises(InvalidSetting, match="a row is a mapping"):
            await body_of(item, format="csv")


async def test_ndjson_without_orjson_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set(VALUES) - {"nan", "infinity"}
    rows = [{name: VALUES[name][0] for name in names}, Named(1, 2)]
    with_orjson = await body_of(rows)
    monkeypatch.setitem(sys.modules, "orjson", None)
    assert await body_of(rows) == with_orjson


NASTY = st.text(alphabet='",[]{}\\\n', max_size=6)
OBJECTS = st.dictionaries(NASTY, NASTY | st.lists(NASTY, max_size=3), max_size=3)


@given(st.lists(OBJECTS | st.fixed_dictionaries({"a": OBJECTS}), min_size=1, max_size=5))
@settings(max_examples=50)
def test_any_rows_read_back_from_ndjson(rows: list[dict[str, Any]]) -> None:
    lines = NDJSON(None).encode(rows).split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line) for line in lines] == rows


async def test_ndjson_takes_nested_keys_that_are_no_strings() -> None:
    assert await body_of([{"a": {1: 2}}]) == b'{"a":{"1":2}}\n'


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
async def test_formulas_are_defused_on_request(start: str) -> None:
    row = {"text": f"{start}1+1", "number": -1, "amount": Decimal("-1.5")}
    written = (await body_of(row, format="csv", escape_formulas=True)).decode()
    (cells,) = csv.DictReader(io.StringIO(written, newline=""))
    assert cells == {"text": f"'{start}1+1", "number": "-1", "amount": "-1.5"}
    assert b"'" not in await body_of(row, format="csv")


async def test_arrow_takes_batches_and_a_schema_and_says_its_end() -> None:
    schema = pa.schema([("n", pa.int32()), ("price", pa.decimal128(10, 2))])
    batch = pa.RecordBatch.from_pylist([{"n": 2, "price": Decimal("2")}], schema=schema)
    items = ({"n": 1, "price": Decimal("1.5")}, batch, pa.table(batch), {"n": 3, "price": None})
    body = await body_of(*items, format="arrow", schema=schema)
    table = pa.ipc.open_stream(body).read_all()
    assert table.schema == schema
    assert table.column("n").to_pylist() == [1, 2, 2, 3]
    assert body.endswith(b"\xff\xff\xff\xff\x00\x00\x00\x00")
    assert pa.ipc.open_stream(await body_of(format="arrow", schema=schema)).read_all().num_rows == 0


def test_arrow_without_pyarrow_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"stormproof\[arrow\]"):
        RowsResponse(_nothing(), format="arrow")


async def _nothing() -> AsyncIterator[Any]:
    return
    yield


@pytest.mark.parametrize(
    "arguments",
    [
        {"format": "xml"},
        {"columns": "id"},
        {"columns": []},
        {"schema": object()},
        {"escape_formulas": True},
        {"idle_timeout": 0},
        {"send_timeout": float("inf")},
    ],
)
async def test_wrong_arguments_are_named(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(arguments))):
        RowsResponse(_nothing(), **arguments)


@pytest.mark.parametrize("is_batched", [True, False])
@pytest.mark.parametrize("format", ["ndjson", "csv", "arrow"])
async def test_chunks_have_a_good_size(format: Any, is_batched: bool) -> None:
    rows = [{"n": n, "text": "x" * 150} for n in range(10_000)]

    async def source() -> AsyncIterator[Any]:
        for row in [rows] if is_batched else rows:
            yield row

    server = Server()
    await RowsResponse(source(), format=format)(scope(), server.receive, server.send)
    sizes = [len(message["body"]) for message in server.sent[1:-1]]
    assert len(sizes) > 20
    assert all(16_384 <= size <= 65_536 for size in sizes)


async def test_stream_of_a_query_is_asked_for_its_mappings() -> None:
    class Query:
        def mappings(self) -> AsyncIterator[Any]:
            return self._pages()

        async def _pages(self) -> AsyncIterator[Any]:
            yield [{"n": 1}]

    server = Server()
    await RowsResponse(Query())(scope(), server.receive, server.send)
    assert server.body == b'{"n":1}\n'
