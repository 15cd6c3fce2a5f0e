"""Supervised: work that stormproof's own `tasks` took, told like any other background work."""

import asyncio
import functools
from contextvars import Context
from typing import Any

from ._requests import Requests


def patch_roll(module: Any, requests: Requests) -> None:
    """Wrap the supervisor's roll, where every task of it passes once."""
    add = module.Roll.add

    @functools.wraps(add)
    def added(self: Any, handle: Any, context: Context) -> None:
        if not handle.is_service:
            _tell(handle, context, requests)
        add(self, handle, context)

    module.Roll.add = added


def _tell(handle: Any, context: Context, requests: Requests) -> None:
    route, number = requests.where()
    facts = {"key": f"s{handle.id}", "route": route, "id": number, "name": handle.name}

    def tell(what: str, error: str | None = None) -> None:
        requests.wire.emit("background", {**facts, "what": what, "error": error})

    def ended(task: "asyncio.Task[Any]") -> None:
        if task.cancelled():
            tell("cancelled", getattr(handle, "_cut_as", None))
        elif (error := task.exception()) is not None:
            tell("failed", repr(error)[:500])
        else:
            tell("finished")

    tell("accepted")
    tell("started")
    handle._task.add_done_callback(ended, context=context)
