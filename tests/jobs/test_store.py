"""The stores do what the one in memory does, whatever is asked of two workers in whatever order."""

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stormproof.database import Database
from stormproof.jobs import _jobs
from stormproof.jobs._facts import End, NewJob
from stormproof.jobs._store import Store

from .memory import MemoryStore, Table

LIMITS = {"free": 0, "two": 2}
STEPS = 120
Told = Any


class Pair:
    """Two workers on one store, asked as if it had no ids of its own: jobs go by their number."""

    def __init__(self, stores: list[Store], database: Database | None) -> None:
        self._stores = stores
        self._database = database
        self._ids: list[int] = []

    async def enqueue(self, jobs: list[NewJob]) -> Told:
        if self._database is None:
            stored = await self._stores[0].enqueue(None, jobs)
        else:
            async with self._database.session() as session:
                stored = await self._stores[0].enqueue(session, jobs)
        self._ids += [job_id for job_id, is_new in stored if is_new and job_id is not None]
        return [(self._number(job_id), is_new) for job_id, is_new in stored]

    async def claim(self, worker: int, most: int) -> Told:
        picked = await self._stores[worker].claim(most, LIMITS, 1000, 3600.0)
        return [(self._number(job.id), job.attempts, job.payload) for job in picked]

    async def finish(self, worker: int, job: int, pick: int, status: str) -> Told:
        end = End(self._ids[job], pick, status, f'{{"traceback": "{status} {pick}"}}')
        return sorted(map(self._number, await self._stores[worker].finish([end])))

    async def again(self, worker: int, job: int, pick: int, delay: float, counted: bool) -> Told:
        store = self._stores[worker]
        return await store.again(self._ids[job], pick, delay, None, is_counted=counted)

    async def reap(self, worker: int) -> Told:
        dead = str(self._stores[worker].leases.worker)
        return await self._stores[1 - worker].reap(dead, '{"traceback": "it died"}')

    async def cancel(self, jobs: list[int]) -> Told:
        return await self._stores[0].cancel([self._ids[job] for job in jobs])

    async def retry_held(self, jobs: list[int]) -> Told:
        return await self._stores[0].retry_held([self._ids[job] for job in jobs])

    async def look(self) -> Told:
        states = await self._stores[1].states(self._ids)
        counts = await self._stores[1].counts()
        held = await self._stores[1].held(1000)
        return (
            {self._number(job_id): state for job_id, state in states.items()},
            {
                row["of_task"]: [row[word] for word in ("queued", "delayed", "running", "held")]
                for row in counts
            },
            sorted((self._number(job.id), job.task, job.starts, job.last_words) for job in held),
        )

    def _number(self, job_id: int | None) -> int:
        return -1 if job_id is None else self._ids.index(job_id)


class Questions:
    """Random questions that make sense, and some that come too late."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._jobs = 0
        self._picks: list[tuple[int, int, int]] = []

    def next(self) -> tuple[str, tuple[Any, ...]]:
        weights = {"enqueue": 5, "claim": 5, "finish": 3, "again": 3, "reap": 1}
        weights |= {"cancel": 1, "retry_held": 1}
        (what,) = self._random.choices(list(weights), list(weights.values()))
        asked: tuple[Any, ...] = getattr(self, f"_{what}")()
        return what, asked

    def note(self, what: str, asked: tuple[Any, ...], told: Told) -> None:
        if what == "enqueue":
            self._jobs += sum(is_new for _, is_new in told)
        if what == "claim":
            self._picks += [(asked[0], job, attempts) for job, attempts, _ in told]

    def _enqueue(self) -> tuple[Any, ...]:
        return ([self._new_job() for _ in range(self._random.choice([1, 1, 3]))],)

    def _new_job(self) -> NewJob:
        dice = self._random
        task, key = dice.choice(list(LIMITS)), dice.choice([None, None, "a", "b", "c"])
        payload = b'{"n": %d}' % dice.randrange(1000)
        return NewJob(task, payload, key, dice.choice([0.0, 0.0, 3600.0]), dice.randrange(3))

    def _claim(self) -> tuple[Any, ...]:
        return self._random.randrange(2), self._random.randint(1, 4)

    def _lease(self) -> tuple[int, int, int]:
        """A pick, mostly one of the last; it may have ended long ago, or be another's by now."""
        return self._random.choice(self._picks[-6:] or [(0, 0, 1)])

    def _finish(self) -> tuple[Any, ...]:
        ends = ["successful", "failed", "exception", "canceled"]
        return *self._lease(), self._random.choice(ends)

    def _again(self) -> tuple[Any, ...]:
        worker, job, pick = self._lease()
        return worker, job, pick, self._random.choice([0.0, 3600.0]), self._random.random() < 0.7

    def _reap(self) -> tuple[Any, ...]:
        return (self._random.randrange(2),)

    def _some(self) -> tuple[Any, ...]:
        return (self._random.sample(range(self._jobs), min(3, self._jobs)),)

    _cancel = _retry_held = _some


@pytest.fixture
async def pair(database: Database) -> AsyncIterator[Pair]:
    stores = [_jobs._new_store(database, 1.0, 3600.0) for _ in range(2)]
    await stores[0].install()
    yield Pair(stores, database)
    for store in stores:
        await store.close()


@pytest.mark.parametrize("seed", range(3))
async def test_two_workers_are_told_what_the_store_in_memory_tells(pair: Pair, seed: int) -> None:
    table = Table()
    model = Pair([MemoryStore(table), MemoryStore(table)], None)
    questions = Questions(seed)
    what, asked = "enqueue", ([NewJob("free", b"{}")],)
    for step in range(STEPS):
        expected, told = [await getattr(each, what)(*asked) for each in (model, pair)]
        assert told == expected, (step, what, asked)
        assert await pair.look() == await model.look(), (step, what, asked)
        questions.note(what, asked, expected)
        what, asked = questions.next()
