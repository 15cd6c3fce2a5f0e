import enum
import json
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from stormproof.errors import InvalidSetting
from stormproof.stream import RowsResponse, ServerEvent, SSEResponse
from stormproof.stream._json import json_encoder
from tests.harness.stream import EventParser


async def nothing() -> Any:
    yield


@given(st.text(alphabet=st.sampled_from("a:\r\n \u2028\x0bü")))
def test_any_text_reads_back_with_its_lines(text: str) -> None:
    encoded = ServerEvent(text, id="1").encode()
    (event,) = EventParser().feed(encoded + b"\n")
    assert event.data == text.replace("\r\n", "\n").replace("\r", "\n")


def test_every_field_is_written() -> None:
    event = ServerEvent({"a": 1}, event="e", id="7", retry_ms=5, comment="c\nd")
    assert event.encode() == b': c\n: d\nevent: e\nid: 7\nretry: 5\ndata: {"a":1}\n\n'
    assert ServerEvent("").encode() == b"data: \n\n"
    assert ServerEvent(comment="hi").encode() == b": hi\n\n"


@pytest.mark.parametrize(
    "fields",
    [{"id": "a\nb"}, {"id": "a\0"}, {"id": "\r"}, {"event": "a\rb"}, {"event": "a\n"}],
)
def test_field_that_would_inject_another_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(fields))):
        ServerEvent("x", **fields)


@pytest.mark.parametrize("retry_ms", [-1, 1.5])
def test_retry_is_whole_milliseconds(retry_ms: Any) -> None:
    with pytest.raises(InvalidSetting, match="retry_ms"):
        ServerEvent(retry_ms=retry_ms)


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int


class Model(BaseModel):
    y: date


@pytest.mark.parametrize("has_orjson", [True, False])
def test_json_is_the_same_with_and_without_orjson(
    has_orjson: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_orjson:
        monkeypatch.setitem(sys.modules, "orjson", None)
    values = {
        "at": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        "day": date(2026, 1, 2),
        "decimal": Decimal("1.10"),
        "uuid": UUID(int=1),
        "colour": Colour.RED,
        "point": Point(1),
        "model": Model(y=date(2026, 1, 2)),
        "set": {1},
        "text": "ü",
        3: None,
    }
    assert json.loads(json_encoder()(values)) == {
        "at": "2026-01-02T03:04:05.000006+00:00",
        "day": "2026-01-02",
        "decimal": "1.10",
        "uuid": "00000000-0000-0000-0000-000000000001",
        "colour": "red",
        "point": {"x": 1},
        "model": {"y": "2026-01-02"},
        "set": [1],
        "text": "ü",
        "3": None,
    }
    with pytest.raises(TypeError):
        json_encoder()(object())


@pytest.mark.parametrize(
    "arguments",
    [{"heartbeat": 0}, {"send_timeout": float("inf")}, {"on_drain": "stay"}, {"retry_ms": -1}],
)
def test_sse_argument_out_of_range_is_named(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(arguments))):
        SSEResponse(nothing(), **arguments)


@pytest.mark.parametrize(
    "arguments", [{"format": "xml"}, {"columns": []}, {"columns": "a"}, {"send_timeout": 0}]
)
def test_rows_argument_out_of_range_is_named(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(arguments))):
        RowsResponse(nothing(), **arguments)


def test_source_that_is_no_async_iterable_is_refused() -> None:
    for response in (SSEResponse, RowsResponse):
        with pytest.raises(InvalidSetting, match="must be an async iterable"):
            response(nothing)
        with pytest.raises(InvalidSetting, match="got list"):
            response([1])  # type: ignore[arg-type]
