"""Payloads: a call's arguments as versioned JSON, checked against the function's signature."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import from_json, to_json

from stormproof.errors import InvalidArguments, InvalidSetting, PayloadMismatch

from ._job import Job
from ._words import first_line

_VERSION = 1
_LARGEST = 1_000_000
"""Bytes: SQLite writes the whole row again at each pick and heartbeat, and is locked meanwhile;
with 30 MB that took 1.5 s."""
_STARS = b'"**********"'
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Arguments:
    """What a function can be called with from a payload, and what it is given at its start.

    Args:
        name: The task's name, for messages.
        function: The function; each parameter needs a type that pydantic can read from JSON,
            but for those that are injected.
        reserved: Names that a parameter must not have.

    Attributes:
        wants_job: The parameters that get the running `Job`.
        injected: The parameters that somebody else fills in (FastAPI's `Depends`).

    Raises:
        InvalidSetting: A parameter cannot be stored.
    """

    def __init__(
        self, name: str, function: Callable[..., Any], *, reserved: frozenset[str] = frozenset()
    ) -> None:
        self.name = name
        self.wants_job: list[str] = []
        self.injected: dict[str, inspect.Parameter] = {}
        try:
            self._signature = inspect.signature(function, eval_str=True)
        except NameError as error:
            raise InvalidSetting(f"task {name!r}: a type is not known here: {error}") from error
        fields: dict[str, Any] = {}
        for parameter in self._signature.parameters.values():
            if is_dependency(parameter):
                self.injected[parameter.name] = parameter
            elif parameter.annotation is Job:
                self.wants_job.append(parameter.name)
            else:
                fields[parameter.name] = self._field(parameter, reserved)
        self._callable = self._signature.replace(
            parameters=[self._signature.parameters[field] for field in fields]
        )
        self._model: type[BaseModel] = create_model(
            f"{name} arguments", __config__=ConfigDict(extra="forbid"), **fields
        )

    def dump(self, *args: Any, **kwargs: Any) -> bytes:
        """Return the payload of a call with these arguments.

        Raises:
            InvalidArguments: The function cannot be called with them.
        """
        try:
            bound = self._callable.bind(*args, **kwargs)
            model = self._model(**bound.arguments)
            # By name, as `load` reads it: an alias may be for one direction alone.
            arguments = model.model_dump(mode="json", by_alias=False, round_trip=True)
            payload = to_json({"v": _VERSION, "args": arguments})
        except (TypeError, ValueError) as error:
            raise InvalidArguments(
                f"job {self.name!r} cannot be called like this: {_what(error)}"
            ) from error
        self._check_payload(payload, model)
        return payload

    def load(self, payload: bytes | None) -> dict[str, Any]:
        """Return the arguments of a stored call.

        Raises:
            PayloadMismatch: It was stored for another signature than the function has now.
        """
        try:
            stored = from_json(payload or b"{}")
            if stored.get("v") != _VERSION:
                raise ValueError(f"its version is {stored.get('v')!r}, not {_VERSION}")
            model = self._model.model_validate(stored["args"], by_alias=True, by_name=True)
        except (ValueError, KeyError, AttributeError) as error:
            raise PayloadMismatch(
                f"the stored arguments of job {self.name!r} do not fit its function any more: "
                f"{_what(error)}; give new parameters a default, keep old ones, or cancel it"
            ) from error
        return {field: getattr(model, field) for field in self._model.model_fields}

    def _check_payload(self, payload: bytes, model: BaseModel) -> None:
        if len(payload) > _LARGEST:
            raise InvalidArguments(
                f"job {self.name!r}: its arguments are {len(payload):,} bytes of JSON, and at "
                f"most {_LARGEST:,} are stored; keep them elsewhere and enqueue where"
            )
        if _STARS in payload and self._model(**self.load(payload)) != model:
            raise InvalidArguments(
                f"job {self.name!r}: a SecretStr is stored as stars; give it where it can be found"
            )

    def _field(self, parameter: inspect.Parameter, reserved: frozenset[str]) -> Any:
        name, kind = parameter.name, parameter.annotation
        if name in reserved:
            raise InvalidSetting(
                f"task {self.name!r}: its parameter {name!r} has the name of an option of "
                "enqueue(); rename it"
            )
        if parameter.kind not in _BY_NAME:
            raise InvalidSetting(
                f"task {self.name!r}: *args, **kwargs and positional-only parameters cannot be "
                "stored; name each parameter"
            )
        if kind is inspect.Parameter.empty:
            raise InvalidSetting(f"task {self.name!r}: its parameter {name!r} has no type")
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        return (kind, default)


def is_dependency(parameter: inspect.Parameter) -> bool:
    """Whether FastAPI fills it in; told by its shape, because FastAPI is not known here."""
    extra: tuple[Any, ...] = ()
    if get_origin(parameter.annotation) is Annotated:
        extra = get_args(parameter.annotation)[1:]
    return any(
        hasattr(mark, "dependency") and hasattr(mark, "use_cache")
        for mark in (parameter.default, *extra)
    )


def _what(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return first_line(error)
