"""Random schedules: acquired = released, and committed if and only if acknowledged."""

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from sqlalchemy import event, select
from sqlalchemy.exc import IntegrityError

from stormproof.database import Database, DatabaseSession
from stormproof.errors import CommitFailed, UncommittedWork

from .model import Item, Model, Tag, count, names


class Refusal(Exception):
    """Stands for an HTTPException."""


@dataclass
class Account:
    """What each worker knows about its rows."""

    acknowledged: set[str] = field(default_factory=set)
    begun: set[str] = field(default_factory=set)
    called_back: set[str] = field(default_factory=set)


@dataclass
class Worker:
    """One unit of work with random steps; `planned` are its rows since the last commit."""

    database: Database
    account: Account
    chance: random.Random
    number: int
    planned: set[str] = field(default_factory=set)
    made: int = 0

    async def run(self) -> None:
        kinds = (self._unit, self._unit, self._transaction, self._autocommit, self._read)
        with suppress(Refusal, CommitFailed):
            await self.chance.choice(kinds)()

    async def _unit(self) -> None:
        async with self.database.session() as session:
            await self._steps(session)
        self.account.acknowledged |= self.planned

    async def _transaction(self) -> None:
        @self.database.transaction(retries=3)
        async def work(session: DatabaseSession) -> None:
            self.planned = set()  # a try before this one has stored nothing
            await self._steps(session)

        await work()
        self.account.acknowledged |= self.planned

    async def _autocommit(self) -> None:
        async with self.database.autocommit() as session:
            event.listen(session.sync_session, "before_commit", self._begin)
            for _ in range(self.chance.randrange(1, 7)):
                self._add(session)
                await session.flush()
                self.account.acknowledged |= self.planned
                self.planned = set()

    async def _read(self) -> None:
        async with self.database.read_session() as session:
            for _ in range(3):
                await session.release()
                before = set(self.account.acknowledged)
                assert before <= set(await session.scalars(select(Item.name)))

    async def _steps(self, session: DatabaseSession) -> None:
        event.listen(session.sync_session, "before_commit", self._begin)
        for _ in range(self.chance.randrange(1, 7)):
            await self._step(session)

    def _begin(self, _: object) -> None:
        self.account.begun |= self.planned

    async def _step(self, session: DatabaseSession) -> None:
        step = self.chance.choice(
            ("add", "add", "add", "read", "commit", "rollback", "release", "savepoint", "pause")
            + (("refuse", "break") if self.chance.random() < 0.3 else ())
        )
        if step == "add":
            self._add(session)
        elif step == "read":
            await count(session)
        elif step == "commit":
            await session.commit()
            self.account.acknowledged |= self.planned
            self.planned = set()
        elif step == "rollback":
            await session.rollback()
            self.planned = set()
        elif step == "release":
            await self._release(session)
        elif step == "savepoint":
            await self._savepoint(session)
        elif step == "pause":
            await asyncio.sleep(self.chance.random() * 0.002)
        elif step == "break":
            session.add(Tag(item_id=10**6))  # refused at the COMMIT
        else:
            raise Refusal

    def _add(self, session: DatabaseSession) -> None:
        self.made += 1
        name = f"{self.number:03}-{self.made}"
        self.planned = self.planned | {name}
        session.add(Item(name=name))
        session.on_commit(lambda: self.account.called_back.add(name))

    async def _release(self, session: DatabaseSession) -> None:
        try:
            await session.release()
            assert not self.planned, "a release gave uncommitted rows away"
        except UncommittedWork:
            pass

    async def _savepoint(self, session: DatabaseSession) -> None:
        before = self.planned
        try:
            async with session.begin_nested():
                self._add(session)
                session.add(Item(name="taken"))
                await session.flush()
        except IntegrityError:
            self.planned = before


@pytest.mark.parametrize("seed", range(4))
async def test_what_is_acknowledged_is_stored_and_nothing_else(url: str, seed: int) -> None:
    """Half of the workers are cancelled; what one was about to commit may be stored then."""
    chance = random.Random(seed)
    account = Account()
    database = Database(url, pool_size=2, max_overflow=1, max_wait=60)
    async with database:
        async with database.engine.begin() as connection:
            await connection.run_sync(Model.metadata.create_all)
        async with database.session() as session:
            session.add(Item(name="taken"))
        workers = [Worker(database, account, random.Random(chance.random()), n) for n in range(60)]
        tasks = [asyncio.create_task(worker.run()) for worker in workers]
        for task in chance.sample(tasks, 30):
            await asyncio.sleep(chance.random() * 0.01)
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(one) for one in outcomes} <= {type(None), asyncio.CancelledError}
        stored = set(await names(database)) - {"taken"}
        assert account.acknowledged <= stored
        assert stored <= account.acknowledged | account.begun
        assert account.called_back == stored
        statistics = database.statistics()
        assert (statistics.in_use, statistics.waiting, database.holders()) == (0, 0, ())
