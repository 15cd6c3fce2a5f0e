"""Waiting for what must not be left half done: a COMMIT, a clean-up."""

import asyncio
import os
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_LOOK_EVERY = 1.0

PATIENCE = 5.0
"""Seconds the work may still take after its caller was cancelled."""


class _Unhurried(asyncio.Task[T]):
    """A task that who awaits it can be cancelled beside, and that goes on for 5 s then.

    asyncio passes the cancellation of a task on to what it awaits, and raises it when that has
    ended, if it would not be cancelled itself. With this in place of a future and two callbacks
    a COMMIT costs 1 % less.
    """

    is_asked = False
    _timer: asyncio.TimerHandle | None = None

    def cancel(self, msg: Any | None = None) -> bool:
        """Have it cut after 5 s; asked again, nothing more."""
        if not self.is_asked:
            self.is_asked = True
            self._timer = self.get_loop().call_later(PATIENCE, self.cut)
        return False

    def cut(self) -> None:
        """Cancel it now."""
        super().cancel()

    def settle(self) -> None:
        """Forget that it would be cut."""
        if self._timer is not None:
            self._timer.cancel()


class Limits:
    """Cuts work that takes too long, up to a second late.

    It looks once a second while there is any: a timer for each COMMIT, which nearly never fires,
    costs 2 % of a small unit of work.
    """

    def __init__(self) -> None:
        self._ends: dict[_Unhurried[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, task: _Unhurried[Any], within: float) -> None:
        """Cut `task` in `within` seconds."""
        loop = asyncio.get_running_loop()
        self._ends[task] = loop.time() + within
        if self._timer is None:
            self._timer = loop.call_later(_LOOK_EVERY, self._look)

    def remove(self, task: _Unhurried[Any]) -> None:
        """Forget `task`, which has ended."""
        del self._ends[task]

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        for task, end in self._ends.items():
            if loop.time() >= end:
                task.cut()
        self._timer = loop.call_later(_LOOK_EVERY, self._look) if self._ends else None


async def to_the_end(
    work: Coroutine[Any, Any, T], *, within: float = 0.0, limits: Limits | None = None
) -> T:
    """Run `work` to its end, also when the caller is cancelled; that is raised afterwards.

    From the cancellation on, `work` has 5 s; then it is cancelled too.

    Args:
        work: What to run; it gets a task of its own.
        within: Seconds after which `work` is cancelled in any case.
        limits: What does that; None for no limit.

    Raises:
        TimeoutError: `work` was not over `within` its time.
    """
    task = _Unhurried(work)
    if limits is not None:
        limits.add(task, within)
    try:
        return await task
    except asyncio.CancelledError:
        if task.cancelled() and not task.is_asked:
            raise TimeoutError(f"not over after {within} s") from None
        if task.done() and not task.cancelled():
            task.exception()  # looked at: the cancellation goes before it
        raise
    finally:
        if limits is not None:
            limits.remove(task)
        if task.is_asked:
            task.settle()


SILENCE = 10
"""Seconds without an acknowledgement after which a network is silent, and an idle one is asked.

The ping of an idle connection can be cut by nobody but its kernel, which would repeat it for a
quarter of an hour, and who waits for an answer without a deadline would never hear of the end.
"""


def bound_silence(line: socket.socket) -> None:
    """Have the kernel end the connection when the network is silent for too long; on Linux."""
    if line.family == socket.AF_UNIX or not hasattr(socket, "TCP_USER_TIMEOUT"):
        return
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE * 1000)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENCE)


def sever(descriptor: int) -> None:
    """Make whoever waits at the socket see its end: a silent network answers no cancellation."""
    with socket.socket(fileno=os.dup(descriptor)) as ours:
        ours.shutdown(socket.SHUT_RDWR)
