"""Store: a recording in a file, and back again exactly as it was.

The file is JSON; what there are thousands of (requests, probes, samples) is stored by column, and
the whole is gzip where the name ends in `.gz`.
"""

import gzip
import json
import os
import types
import typing
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from stormproof.errors import InvalidSetting

from ._recording import SCHEMA, Probe, Recording, Request, Sample

_COLUMNAR: tuple[type, ...] = (Request, Probe, Sample)
_GZIP = b"\x1f\x8b"
_Read = Callable[[Any, str], Any]


class _Damaged(Exception):
    """A value that cannot be part of a recording; the message says where and what."""


def save_recording(recording: Recording, path: Path) -> None:
    """Write `recording` to `path`, whole or not at all; gzip where the name ends in `.gz`.

    Raises:
        InvalidSetting: The file cannot be written there.
    """
    text = json.dumps(_written(recording), separators=(",", ":"))
    # mtime=0: the same recording gives the same bytes.
    content = gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as exc:
        partial.unlink(missing_ok=True)
        raise InvalidSetting(f"the recording cannot be written to {path}: {exc.strerror}") from exc


def load_recording(path: Path) -> Recording:
    """Read the recording that `save_recording` wrote to `path`.

    Raises:
        InvalidSetting: There is no such file, it is damaged, it is something else, or it has
            another schema than this version reads.
    """
    try:
        value = json.loads(_content(path))
        return _recording(value, path)
    except OSError as exc:
        raise InvalidSetting(f"the recording {path} cannot be read: {exc.strerror or exc}") from exc
    except (EOFError, zlib.error) as exc:
        raise InvalidSetting(f"the recording {path} is damaged: it ends too early") from exc
    except (ValueError, RecursionError) as exc:
        reason = str(exc).partition("\n")[0]
        raise InvalidSetting(f"{path} is damaged or not a recording: {reason}") from exc
    except _Damaged as exc:
        raise InvalidSetting(f"{path} is damaged or not a recording: {exc}") from exc


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if content.startswith(_GZIP) else content


def _recording(value: Any, path: Path) -> Recording:
    if not isinstance(value, dict) or "schema" not in value or "attacks" not in value:
        raise _Damaged("it does not begin as one")
    schema = value["schema"]
    if schema != SCHEMA:
        raise InvalidSetting(
            f"the recording {path} has schema {schema!r} and this version reads {SCHEMA}; "
            "audit it with the version that made it"
        )
    recording = _reader(Recording)(value, "recording")
    assert isinstance(recording, Recording)
    return recording


def _written(value: Any) -> Any:
    """Return what `json` writes for a value of a recording."""
    if is_dataclass(value):
        return {field.name: _written(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple) and value and isinstance(value[0], _COLUMNAR):
        return _columns(value)
    if isinstance(value, Mapping):
        return {str(name): _written(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_written(item) for item in value]
    return value


def _columns(rows: Sequence[Any]) -> dict[str, Any]:
    """Return rows by column; a column whose values are all the same is stored once."""
    columns: dict[str, Any] = {}
    for field in fields(rows[0]):
        values = [getattr(row, field.name) for row in rows]
        columns[field.name] = {"all": _written(values[0])} if _is_same(values) else _written(values)
    return {"count": len(rows), "columns": columns}


def _is_same(values: list[Any]) -> bool:
    """Return whether all are equal; of floats nothing is said, because 0.0 equals -0.0."""
    first = values[0]
    kind = type(first)
    return kind is not float and all(type(value) is kind and value == first for value in values)


def _reader(kind: Any) -> _Read:
    """Return what reads a value of this type, and raises _Damaged for any other."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value, _: value
    if is_dataclass(kind):
        return _dataclass_reader(typing.cast(type, kind))
    if origin is Literal:
        return _checked(lambda value: value in arguments and not isinstance(value, bool), kind)
    if origin in (Union, types.UnionType):
        return _optional_reader(arguments)
    if origin is tuple:
        return _rows_reader(arguments[0])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping_reader(_reader(arguments[1]))
    if kind is float:
        return _checked(lambda value: type(value) in (float, int), kind)
    return _checked(lambda value: type(value) is kind, kind)


def _checked(is_right: Callable[[Any], bool], kind: Any) -> _Read:
    name = getattr(kind, "__name__", str(kind))

    def read(value: Any, where: str) -> Any:
        if not is_right(value):
            raise _Damaged(f"{where} is {_shown(value)}, not {name}")
        return value

    return read


def _optional_reader(arguments: tuple[Any, ...]) -> _Read:
    (kind,) = (argument for argument in arguments if argument is not types.NoneType)
    read = _reader(kind)
    return lambda value, where: None if value is None else read(value, where)


def _mapping_reader(read: _Read) -> _Read:
    def read_mapping(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _Damaged(f"{where} is {_shown(value)}, not an object")
        return {name: read(item, where) for name, item in value.items()}

    return read_mapping


def _rows_reader(kind: Any) -> _Read:
    read, read_columns = _reader(kind), None
    if kind in _COLUMNAR:
        read_columns = _columns_reader(kind)

    def read_rows(value: Any, where: str) -> tuple[Any, ...]:
        if read_columns is not None and isinstance(value, dict):
            return read_columns(value, where)
        if not isinstance(value, list):
            raise _Damaged(f"{where} is {_shown(value)}, not a list")
        return tuple(read(item, f"{where}[{index}]") for index, item in enumerate(value))

    return read_rows


def _dataclass_reader(kind: type) -> _Read:
    hints = get_type_hints(kind)
    readers = {field.name: _reader(hints[field.name]) for field in fields(kind)}
    needed = _without_default(kind)

    def read(value: Any, where: str) -> Any:
        _check_names(value, set(readers), needed, where)
        return kind(
            **{name: readers[name](item, f"{where}.{name}") for name, item in value.items()}
        )

    return read


def _columns_reader(kind: type) -> Callable[[dict[str, Any], str], tuple[Any, ...]]:
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    readers = {name: _reader(hints[name]) for name in names}

    def read(value: dict[str, Any], where: str) -> tuple[Any, ...]:
        count, columns = value.get("count"), value.get("columns")
        if type(count) is not int or count < 0:
            raise _Damaged(f"{where}.count is {_shown(count)}, not a number of rows")
        _check_names(columns, set(names), _without_default(kind), where)
        assert isinstance(columns, dict)
        cells = [
            _column(columns[name], count, readers[name], f"{where}.{name}")
            for name in names
            if name in columns
        ]
        present = [name for name in names if name in columns]
        return tuple(
            kind(**dict(zip(present, row, strict=True))) for row in zip(*cells, strict=True)
        )

    return read


def _column(value: Any, count: int, read: _Read, where: str) -> list[Any]:
    if isinstance(value, dict) and set(value) == {"all"}:
        # Read anew for each row: two rows must not share one mapping.
        return [read(value["all"], where) for _ in range(count)]
    if not isinstance(value, list) or len(value) != count:
        raise _Damaged(f"{where} does not hold {count} values")
    return [read(item, where) for item in value]


def _check_names(value: Any, known: set[str], needed: set[str], where: str) -> None:
    if not isinstance(value, dict):
        raise _Damaged(f"{where} is {_shown(value)}, not an object")
    for name in needed - set(value):
        raise _Damaged(f"{where} has no {name!r}")
    for name in set(value) - known:
        raise _Damaged(f"{where} has {_shown(name)}, which this version does not know")


def _without_default(kind: type) -> set[str]:
    return {
        field.name
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    }


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
