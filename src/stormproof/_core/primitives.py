"""Primitives: the one place that knows every limit, pool and quota of the process, to be read."""

import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol


class Counting(Protocol):
    """What can be registered: it has a name, and counts that may be read from any thread."""

    @property
    def name(self) -> str:
        """What messages and metrics call it."""
        ...

    def statistics(self) -> Any:
        """Return its counts of this moment, as a dataclass."""
        ...


@dataclass(frozen=True, slots=True)
class Primitive:
    """One limit, pool or quota, as it was when `primitives()` was called.

    Attributes:
        kind: "limiter", "adaptive", "rate", "admission", "threads", "database", "upstream",
            "breaker", "tasks", "jobs" or "hub".
        name: Its name; two of a kind may have the same.
        counts: Its statistics by the name of their field.
    """

    kind: str
    name: str
    counts: Mapping[str, Any]


# Weak, so that being known keeps nothing alive. The one state of this kind that is not passed
# along: a limit is made where it is used, often at module level, and a scrape must see all.
_known: dict[int, tuple[str, weakref.ref[Counting]]] = {}


def register(kind: str, primitive: Counting) -> None:
    """Let `primitives()` tell of `primitive` as long as it lives; a second call changes its kind.

    Costs one dictionary item; its counts are only read when somebody asks.
    """
    identity = id(primitive)
    _known[identity] = kind, weakref.ref(primitive, lambda _: _known.pop(identity, None))


def primitives() -> list[Primitive]:
    """Return every limit, pool and quota of this process with its counts, by kind and name.

    May be called from any thread; waits for nothing.

    versionadded: 0.1
    """
    found = []
    for kind, reference in tuple(_known.values()):
        primitive = reference()
        if primitive is not None:
            found.append(Primitive(kind, primitive.name, asdict(primitive.statistics())))
    return sorted(found, key=lambda primitive: (primitive.kind, primitive.name))
