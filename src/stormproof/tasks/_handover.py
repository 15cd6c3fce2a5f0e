"""Handover: unfinished work, as a fact that somebody else can go on with."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class UnfinishedTask:
    """A task that was cancelled before it was done, to be done again by somebody else.

    Attributes:
        id: The id of its receipt.
        name: The name of its receipt.
        function: What was to be called.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        age: Seconds since its start.
        origin: The request that it came from ("POST /orders"), or None.
    """

    id: str
    name: str
    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    age: float
    origin: str | None


Handover: TypeAlias = Callable[[Sequence[UnfinishedTask]], Awaitable[Collection[str]]]
"""Takes unfinished tasks; returns the ids of those it has stored. The others are lost."""
