"""Work: one call to make later, and how it is to be run."""

import functools
import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, Literal, ParamSpec, TypeAlias, TypeVar, get_args

from stormproof.errors import InvalidSetting

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

OnShutdown: TypeAlias = Literal["finish", "cancel", "handover"]
"""What a drain does with a task that is still running."""

Call: TypeAlias = "functools.partial[Coroutine[Any, Any, T]]"


@dataclass(frozen=True, slots=True)
class Work(Generic[T_co]):
    """One call to make later.

    Attributes:
        call: The async function and its arguments.
        name: What it is called in logs and losses.
        timeout: Seconds it may take, or None.
        on_shutdown: What a drain does with it.
        is_service: Whether it is endless.
        asked_for: The function and arguments as its caller gave them, when `call` wraps them.
    """

    call: "functools.partial[Coroutine[Any, Any, T_co]]"
    name: str
    timeout: float | None = None
    on_shutdown: OnShutdown = "finish"
    is_service: bool = False
    asked_for: "functools.partial[Any] | None" = None

    @property
    def given(self) -> "functools.partial[Any]":
        """The function and arguments as its caller gave them."""
        return self.asked_for or self.call


def call_of(
    verb: str,
    function: Callable[P, Coroutine[Any, Any, T]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> "functools.partial[Coroutine[Any, Any, T]]":
    """Return the call to make later, or say what is wrong with `function`."""
    if inspect.iscoroutine(function):
        name = function.__qualname__
        function.close()  # else it is also reported as never awaited
        raise InvalidSetting(
            f"function of {verb}() must be the async function itself, not a coroutine; "
            f"write {verb}({name}, ...) instead of {verb}({name}(...))"
        )
    if not callable(function):
        raise InvalidSetting(f"function of {verb}() must be an async function, not {function!r}")
    return functools.partial(function, *args, **kwargs)


def name_of(call: "functools.partial[Any]") -> str:
    """Return the function's name as it stands in the source."""
    name = str(getattr(call.func, "__qualname__", type(call.func).__qualname__))
    return name.rpartition("<locals>.")[2]


def check_choice(argument: str, value: object, choices: Any) -> None:
    """Raise InvalidSetting unless `value` is one of the `Literal` type `choices`."""
    names = get_args(choices)
    if value not in names:
        allowed = ", ".join(repr(name) for name in names)
        raise InvalidSetting(f"{argument} must be one of {allowed}; got {value!r}")
