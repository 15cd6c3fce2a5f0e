"""Outcomes: how far a job is, and what it has returned, for those who ask."""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json
from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

_REPORT = text(
    "INSERT INTO stormproof_jobs_outcomes (job_id, fraction, message, updated) "
    "VALUES (:id, :fraction, :message, :now) ON CONFLICT (job_id) DO UPDATE SET "
    "fraction = excluded.fraction, message = excluded.message, updated = excluded.updated"
)
_KEEP = text(
    "INSERT INTO stormproof_jobs_outcomes (job_id, fraction, result, updated) "
    "VALUES (:id, 1.0, :result, :now) ON CONFLICT (job_id) DO UPDATE SET "
    "fraction = excluded.fraction, result = excluded.result, updated = excluded.updated"
)
_READ = text("SELECT fraction, message, result FROM stormproof_jobs_outcomes WHERE job_id = :id")
_PRUNE = text("DELETE FROM stormproof_jobs_outcomes WHERE updated < :before")


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """What a job has said of itself.

    Attributes:
        fraction: How much is done, from 0 to 1, or None.
        message: What it said last, or None.
        result: What it returned, where its task keeps results; else None.
    """

    fraction: float | None = None
    message: str | None = None
    result: Any = None


class Outcomes:
    """Stores what jobs say, each time in a transaction of its own.

    Args:
        session: Opens a unit of work.
        keep: Seconds for which it is remembered.
    """

    def __init__(
        self, session: "Callable[[], AbstractAsyncContextManager[AsyncSession]]", keep: float
    ) -> None:
        self._session = session
        self._keep = keep

    async def report(self, job_id: int, fraction: float | None, message: str | None) -> None:
        """Store how far a job is; what is older than is kept goes."""
        facts = {"id": job_id, "fraction": fraction, "message": message, "now": time.time()}
        async with self._session() as session:
            await session.execute(_REPORT, facts)

    async def keep(self, job_id: int, result: Any) -> None:
        """Store what a job has returned, as JSON; forget what is too old."""
        facts = {"id": job_id, "result": to_json(result).decode(), "now": time.time()}
        async with self._session() as session:
            await session.execute(_KEEP, facts)
            await session.execute(_PRUNE, {"before": time.time() - self._keep})

    async def of(self, job_id: int) -> JobOutcome:
        """Return what a job has said."""
        async with self._session() as session:
            row = (await session.execute(_READ, {"id": job_id})).first()
        if row is None:
            return JobOutcome()
        result = None if row.result is None else from_json(row.result)
        return JobOutcome(row.fraction, row.message, result)
