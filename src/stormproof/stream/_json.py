"""JSON as bytes: through orjson where it is installed, else through the standard library."""

import base64
import dataclasses
import json
from collections.abc import Callable, Mapping, Set
from datetime import date, time
from decimal import Decimal
from enum import Enum
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from uuid import UUID


def json_encoder() -> Callable[[Any], bytes]:
    """Return a function from a value to one line of JSON, for the use of one response.

    Both libraries write dates as ISO 8601, decimals and UUIDs as strings, bytes as base64,
    dataclasses, named tuples and pydantic models as objects, sets as arrays. They differ for
    NaN and infinity: orjson writes null, the standard library raises ValueError. What neither
    knows raises TypeError.
    """
    if find_spec("orjson") is None:
        return _encode
    orjson = import_module("orjson")
    dumps, option = orjson.dumps, orjson.OPT_NON_STR_KEYS

    def encode_fast(value: Any) -> bytes:
        encoded: bytes = dumps(value, default=plain, option=option)
        return encoded

    return encode_fast


def _encode(value: Any) -> bytes:
    return json.dumps(
        value, default=plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    ).encode()


def plain(value: Any) -> Any:
    """Return something that JSON has, for a value that it has not."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "_asdict"):
        return value._asdict()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | UUID):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Set):
        return list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON or CSV; convert it before")
