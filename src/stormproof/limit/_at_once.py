"""`AT_ONCE`: an awaitable that is over already, for what has nothing to wait for."""

import types
from collections.abc import Coroutine, Generator
from typing import Any, cast


@types.coroutine
def _nothing() -> Generator[None, None, None]:
    return
    yield


def _ended() -> Coroutine[Any, Any, None]:
    generator = cast(Generator[None, None, None], _nothing())
    next(generator, None)
    # Awaited like a coroutine, though it is none; and a coroutine can be awaited only once.
    return cast(Coroutine[Any, Any, None], generator)


AT_ONCE = _ended()
"""Awaiting it returns None at once, as often as one likes; nothing is made for it.

A generator that has ended tells everybody so who asks (CPython 3.11 to 3.13).
"""
