"""Handover: what a supervisor of tasks gives up at a drain, told by its shape."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol


class UnfinishedTask(Protocol):
    """What a supervisor of tasks gives up at a drain; `tasks.UnfinishedTask` is one."""

    @property
    def id(self) -> str:
        """The id of its receipt."""
        ...

    @property
    def function(self) -> Callable[..., Any]:
        """What was to be called."""
        ...

    @property
    def args(self) -> Sequence[Any]:
        """Its positional arguments."""
        ...

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """Its keyword arguments."""
        ...
