"""Typed events: a model that says in its field `event` what it is."""

import dataclasses
from typing import Literal, get_args, get_origin, get_type_hints


def event_name(kind: type) -> str | None:
    """Return the name of the events that `kind` describes, or None.

    That is a pydantic model or a dataclass with a field `event: Literal["name"]`, as the members
    of a union have that is discriminated by `event`.
    """
    is_model = hasattr(kind, "model_fields") or dataclasses.is_dataclass(kind)
    if not is_model or "event" not in getattr(kind, "__annotations__", {}):
        return None
    annotation = get_type_hints(kind).get("event")
    names = get_args(annotation) if get_origin(annotation) is Literal else ()
    return names[0] if len(names) == 1 and isinstance(names[0], str) else None


class EventNames:
    """Remembers the names of the types it has met; for one response or endpoint."""

    def __init__(self) -> None:
        self._names: dict[type, str | None] = {}

    def of(self, item: object) -> str | None:
        """Return the event name of `item`'s type, or None."""
        kind = type(item)
        if kind not in self._names:
            self._names[kind] = event_name(kind)
        return self._names[kind]
