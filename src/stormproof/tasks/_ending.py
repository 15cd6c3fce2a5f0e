"""The ending: who is waited for at a drain, who is cut, who is handed over, and what is lost."""

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence

from stormproof._core.lifecycle import Loss
from stormproof._core.origin import Origin
from stormproof._core.place import waiting_place

from ._handle import AnyHandle
from ._handover import Handover, UnfinishedTask
from ._roll import Roll

_LEAST = 0.1
"""Seconds that cancelled work gets for its clean-up even when the time is over."""

_LET_GO_MOST = 5.0
"""Seconds that tasks which a drain does not wait for get for their clean-up."""

_log = logging.getLogger("stormproof")


class Ending:
    """One drain of the tasks.

    Args:
        roll: The tasks.
        cut_at: When to stop waiting, absolute and monotonic.
        handover: Who takes unfinished tasks, or None.

    Attributes:
        losses: What is lost as things stand; a handover is in it until it was taken.
    """

    def __init__(self, roll: Roll, cut_at: float, handover: Handover | None) -> None:
        self.losses: dict[AnyHandle, Loss] = {}
        self._roll = roll
        self._cut_at = cut_at
        self._handover = handover

    async def finish(self) -> None:
        """Cut what need not be finished, and wait for the rest, at most until `cut_at`."""
        while True:
            await self._let_go()
            waiting = [handle._task for handle in self._roll.tasks() if _is_waited_for(handle)]
            left = self._cut_at - self._roll.clock.now()
            if not waiting or left <= 0:
                return
            await asyncio.wait(waiting, timeout=left)

    async def stop_services(self) -> None:
        """Cancel and await the services."""
        await cancel(self._roll, self._roll.services(), self._cut_at)

    def note_losses(self) -> Collection[AnyHandle]:
        """Note what is lost by cutting all that runs now; returns who is to be cut."""
        now = self._roll.clock.now()
        running = self._roll.tasks()
        for handle in running:
            if handle._work.on_shutdown != "cancel" and handle not in self.losses:
                self.losses[handle] = handle._loss("task", now)
        return running

    async def _let_go(self) -> None:
        """Cut the tasks that may be cancelled or handed over, await them, and hand them over."""
        now = self._roll.clock.now()
        cut: list[AnyHandle] = []
        for handle in self._roll.tasks():
            if handle._cut_as is not None or handle._work.on_shutdown == "finish":
                continue
            cut.append(handle)
            if handle._work.on_shutdown == "handover":
                self.losses[handle] = handle._loss("handover", now)
                handle._cut("handed_over")
            else:
                handle._cut("cancelled")
        if not cut:
            return
        to_hand_over = [handle for handle in cut if handle in self.losses]
        taken: Collection[str] = ()
        try:
            await cancel(self._roll, cut, min(self._cut_at, now + _LET_GO_MOST))
            # One that goes on in spite of its cancellation is not offered: it would run twice.
            taken = await self._offer([handle for handle in to_hand_over if handle.done()])
        finally:
            self._settle(to_hand_over, taken)

    def _settle(self, cut: Sequence[AnyHandle], taken: Collection[str]) -> None:
        """Count the cut tasks out; those that nobody took stay among the losses."""
        for handle in cut:
            if not handle.done():
                handle._cut_as = "cancelled"  # and is counted when it ends, if it ever does
                continue
            is_taken = handle.id in taken
            handle._state = "handed_over" if is_taken else "cancelled"
            self._roll.count(handle._state)
            if is_taken:
                del self.losses[handle]

    async def _offer(self, offered: Sequence[AnyHandle]) -> Collection[str]:
        """Give these to the handover; returns the ids that it took."""
        if not offered or self._handover is None:
            return ()
        now = self._roll.clock.now()
        unfinished = [_unfinished(handle, now) for handle in offered]
        try:
            async with asyncio.timeout(max(_LEAST, self._cut_at - now)):
                return frozenset(await self._handover(unfinished))
        except Exception:
            _log.exception("the handover of %d unfinished tasks failed", len(unfinished))
            return ()


async def cancel(roll: Roll, handles: Iterable[AnyHandle], until: float) -> None:
    """Cancel and await these tasks, until `until` but at least 0.1 s; name who stays."""
    tasks = {handle._task: handle for handle in handles if not handle._is_left_behind}
    for handle in tasks.values():
        handle._cut()
    if not tasks:
        return
    left = max(_LEAST, until - roll.clock.now())
    _, stubborn = await asyncio.wait(tasks, timeout=left)
    for task in stubborn:
        tasks[task]._is_left_behind = True
        _log.error(
            "task %r ignores its cancellation at %s and was left behind",
            tasks[task].name,
            waiting_place(task),
        )


def _is_waited_for(handle: AnyHandle) -> bool:
    # One whose timeout has cut it is on its way out, whatever was planned for it.
    return handle._work.on_shutdown == "finish" or handle._cut_as == "timed_out"


def _unfinished(handle: AnyHandle, now: float) -> UnfinishedTask:
    call = handle._work.given
    origin: Origin | None = handle.origin
    return UnfinishedTask(
        id=handle.id,
        name=handle.name,
        function=call.func,
        args=call.args,
        kwargs=call.keywords,
        age=now - handle.started_at,
        origin=None if origin is None else origin.name,
    )
