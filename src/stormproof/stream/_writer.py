"""The writer of a bus: appends in batches, so that many publishers cost one round trip."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass

from stormproof._core.deadline import bounded
from stormproof.errors import BusUnavailable, PublishUnknown

from ._bus import Entry, Position

_MOST_ENTRIES = 256
_MOST_CHARACTERS = 1 << 20


@dataclass(eq=False, slots=True)
class _Waiting:
    """One caller of `append`."""

    entry: Entry
    position: "asyncio.Future[Position]"
    is_sent: bool = False


class Batch:
    """What is written at once; it is fixed when it is first sent.

    Attributes:
        number: Grows with each batch of a writer.
    """

    def __init__(self, number: int, waiting: list[_Waiting]) -> None:
        self.number = number
        self.waiting = waiting
        self.is_sent = False

    def send(self) -> Sequence[Entry]:
        """Return the entries to send from here on, the same each time; callers who left have none.

        To be called right before sending: who gives up before that is told "not published".
        """
        if not self.is_sent:
            self.is_sent = True
            self.waiting = [each for each in self.waiting if not each.position.done()]
            for each in self.waiting:
                each.is_sent = True
        return [each.entry for each in self.waiting]


class Writer:
    """Takes entries one by one and writes what has gathered since the last write was begun.

    One write is under way at a time, so entries get their places in the order in which `append`
    was called. The batches are written in a task of the writer's own, because a batch has many
    callers: one of them that leaves takes nothing from the others.

    Args:
        write: Writes a batch and returns the position of its last entry; must end by itself. It
            may be sent again and again, but is stored once.
        name: What errors call the bus.
        timeout: Seconds that one append may take.
    """

    def __init__(
        self, write: Callable[[Batch], Awaitable[Position]], *, name: str, timeout: float
    ) -> None:
        self._write = write
        self._name = name
        self._timeout = timeout
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)

    async def append(self, entry: Entry) -> Position:
        """Write `entry` and return its position.

        Waits at most the timeout and never past the deadline. Cancelled: an entry that was not
        sent yet is not written; of one that was, nobody is told.

        Raises:
            BusUnavailable: The time is over, and it was not written.
            PublishUnknown: The time is over, and it may have been written.
        """
        seconds = bounded(self._timeout)
        waiting = _Waiting(entry, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._start()
        try:
            async with asyncio.timeout(seconds):
                return await waiting.position
        except TimeoutError:
            why = f"gave no answer within {seconds:.2f} s"
            raise self._no_answer(waiting.is_sent, why) from None

    async def close(self) -> None:
        """Give up the write under way; who waits for it is told that its end is unknown.

        Used again, it writes again.
        """
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        self._fail(self._waiting, None)
        self._waiting = []

    def _start(self) -> None:
        if self._task is None or self._task.done():
            # An empty context: the work belongs to all callers, not to the first one's request.
            self._task = asyncio.get_running_loop().create_task(
                self._write_all(), name=f"writer of {self._name}", context=Context()
            )

    async def _write_all(self) -> None:
        while self._waiting:
            batch = Batch(next(self._numbers), self._take())
            try:
                self._answer(batch.waiting, await self._write(batch))
            except Exception as error:
                self._fail(batch.waiting, error)
            finally:
                self._fail(batch.waiting, None)  # those without an answer: the writer is closed

    def _take(self) -> list[_Waiting]:
        size = count = 0
        for waiting in self._waiting[:_MOST_ENTRIES]:
            size += len(waiting.entry.data)
            if count and size > _MOST_CHARACTERS:
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def _answer(self, waiting: Sequence[_Waiting], last: Position) -> None:
        for offset, each in enumerate(waiting, last.offset - len(waiting) + 1):
            if not each.position.done():
                each.position.set_result(Position(last.epoch, offset))

    def _fail(self, waiting: Sequence[_Waiting], error: Exception | None) -> None:
        for each in waiting:
            if each.position.done():
                continue
            if error is None:
                each.position.set_exception(self._no_answer(each.is_sent, "was closed"))
            elif isinstance(error, BusUnavailable):
                each.position.set_exception(self._no_answer(each.is_sent, f"is away: {error}"))
            else:
                each.position.set_exception(error)

    def _no_answer(self, is_sent: bool, why: str) -> BusUnavailable | PublishUnknown:
        if is_sent:
            return PublishUnknown(
                f"{self._name} {why}; the event was sent and may be published or not: publish it "
                "again only if twice does no harm"
            )
        return BusUnavailable(
            f"{self._name} {why}; the event is not published, try again later", retry_after=1.0
        )
