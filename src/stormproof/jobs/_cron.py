"""Cron: at each of its times a task is enqueued as a job, once, by whichever worker is first."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from croniter import croniter
from sqlalchemy import text

from stormproof.errors import InvalidSetting

from ._words import first_line

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ._task import JobTask

_LOOK_EVERY = 30.0
_RETRY_AFTER = 2.0

_log = logging.getLogger("stormproof")

_READ = text("SELECT name, expression, next_at FROM stormproof_jobs_schedules")
_ADD = text(
    "INSERT INTO stormproof_jobs_schedules (name, expression, next_at) "
    "VALUES (:name, :expression, :next_at) ON CONFLICT (name) DO NOTHING"
)
_CHANGE = text(
    "UPDATE stormproof_jobs_schedules SET expression = :expression, next_at = :next_at "
    "WHERE name = :name"
)
# Two workers come with the same time in hand: one changes it, the other finds it changed.
_TAKE = text(
    "UPDATE stormproof_jobs_schedules SET next_at = :next_at "
    "WHERE name = :name AND next_at = :now_at RETURNING name"
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a task is enqueued.

    Args:
        expression: Five fields of cron: minute, hour, day, month, weekday.
        timezone: Whose hours they are.

    Raises:
        InvalidSetting: The expression or the time zone is none.
    """

    expression: str
    timezone: str

    def __post_init__(self) -> None:
        if not croniter.is_valid(self.expression):
            raise InvalidSetting(f"cron({self.expression!r}) is no cron expression of five fields")
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError) as error:
            raise InvalidSetting(f"cron(timezone={self.timezone!r}) is not known") from error

    @property
    def stored(self) -> str:
        """What tells a changed schedule from the one that is stored."""
        return f"{self.expression} {self.timezone}"

    def next_after(self, now: float) -> float:
        """Return the next time after `now`; both in seconds since 1970."""
        start = datetime.fromtimestamp(now, ZoneInfo(self.timezone))
        return float(croniter(self.expression, start).get_next())


class Cron:
    """Enqueues tasks at their times.

    A time that passed while no worker ran is made up for once, however many they were. While
    the job of the last time still waits or runs, no second one is enqueued.

    Args:
        schedules: When each task is due.
        session: Opens a unit of work.
        enqueue: Stores a job of a task, unless there is one with that key.
        now: The time in seconds since 1970, the same for all workers as far as clocks agree.
    """

    def __init__(
        self,
        schedules: "Mapping[JobTask[Any], Schedule]",
        session: "Callable[[], AbstractAsyncContextManager[AsyncSession]]",
        enqueue: "Callable[[AsyncSession, JobTask[Any], str], Awaitable[object]]",
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._schedules = {task.name: (task, schedule) for task, schedule in schedules.items()}
        self._session = session
        self._enqueue = enqueue
        self._now = now

    async def run(self) -> None:
        """Enqueue what is due, for ever; cancelled, it ends."""
        while True:
            try:
                next_at = await self.tick()
            except Exception as error:
                _log.warning("jobs: cron cannot use the store: %s; trying again", first_line(error))
                next_at = self._now() + _RETRY_AFTER
            # Not longer at once: somebody may set the clock, or another release the schedule.
            await asyncio.sleep(min(_LOOK_EVERY, max(0.0, next_at - self._now())))

    async def tick(self) -> float:
        """Enqueue what is due now, each in a transaction of its own; return when the next is."""
        async with self._session() as session:
            stored = {row.name: row for row in await session.execute(_READ)}
        times = []
        for name, (task, schedule) in self._schedules.items():
            next_at = schedule.next_after(self._now())
            row = stored.get(name)
            facts = {"name": name, "expression": schedule.stored, "next_at": next_at}
            if row is None or row.expression != schedule.stored:
                async with self._session() as session:
                    await session.execute(_ADD if row is None else _CHANGE, facts)
            elif row.next_at <= self._now():
                await self._take(task, {**facts, "now_at": row.next_at})
            else:
                next_at = row.next_at
            times.append(next_at)
        return min(times)

    async def _take(self, task: "JobTask[Any]", facts: dict[str, Any]) -> None:
        del facts["expression"]
        async with self._session() as session:
            if (await session.execute(_TAKE, facts)).first() is not None:
                await self._enqueue(session, task, f"cron:{task.name}")
