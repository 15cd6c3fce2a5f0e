"""A test's block: everything in it is undone, also what the app committed; and SQLModel."""

# ruff: noqa: PT012  # what must raise here is a whole block: a unit of work

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated

import httpx2
import pytest
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field, SQLModel, select

import stormproof
from stormproof.database import Database
from stormproof.errors import InvalidSetting
from stormproof.testing import rolled_back


class Hero(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True)


@pytest.fixture
async def heroes(url: str) -> AsyncIterator[Database]:
    """A pool of one: what is outside of the block's connection would have to wait."""
    database = Database(url, pool_size=1, max_overflow=0, max_wait=0.2)
    async with database:
        async with database.engine.begin() as connection:
            await connection.run_sync(Hero.metadata.create_all)
        yield database
        assert database.statistics().in_use == 0


async def names(database: Database) -> list[str]:
    async with database.read_session() as session:
        return list(await session.scalars(select(Hero.name).order_by(Hero.name)))


async def test_sqlmodel_works_with_a_session(heroes: Database) -> None:
    async with heroes.session() as session:
        hero = Hero(name="ada")
        session.add(hero)
    assert hero.id == 1
    async with heroes.read_session() as session:
        assert (await session.scalars(select(Hero))).one().name == "ada"
        assert (await session.get_one(Hero, 1)).model_dump() == {"id": 1, "name": "ada"}
    assert [one.name async for one in heroes.stream(select(Hero))] == ["ada"]


async def test_all_that_is_committed_inside_is_undone(heroes: Database) -> None:
    for _ in range(2):
        async with rolled_back(heroes) as session:
            session.add(Hero(name="test"))
            await session.commit()
            async with heroes.session() as unit:
                unit.add(Hero(name="app"))
            assert await names(heroes) == ["app", "test"]
            assert [one async for one in heroes.stream(select(Hero.name))] == ["test", "app"]
        assert await names(heroes) == []


async def test_a_rollback_inside_undoes_its_own_unit_alone(heroes: Database) -> None:
    async with rolled_back(heroes) as session:
        session.add(Hero(name="kept"))
        await session.commit()
        with pytest.raises(IntegrityError):
            async with heroes.session() as unit:
                unit.add(Hero(name="lost"))
                await unit.flush()
                unit.add(Hero(name="kept"))
                await unit.flush()
        session.add(Hero(name="undone"))
        await session.flush()
        await session.rollback()
        assert await names(heroes) == ["kept"]
    assert await names(heroes) == []


async def test_a_test_that_fails_leaves_nothing(heroes: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with rolled_back(heroes) as session:
            session.add(Hero(name="test"))
            await session.commit()
            raise ZeroDivisionError
    assert await names(heroes) == []


async def test_what_cannot_join_is_refused(heroes: Database) -> None:
    async with rolled_back(heroes):
        with pytest.raises(InvalidSetting, match="inside another one"):
            async with rolled_back(heroes):
                pass
        with pytest.raises(InvalidSetting, match="cannot join"):
            async with heroes.sync_session():
                pass


async def test_a_closed_database_is_opened_for_the_block(url: str) -> None:
    database = Database(url)
    async with rolled_back(database) as session:
        assert session.is_active
        async with database.session():
            pass


async def get_db() -> AsyncSession:
    raise NotImplementedError("the app's own dependency, which the test replaces")


def giving(session: AsyncSession) -> Callable[[], AsyncSession]:
    return lambda: session


@asynccontextmanager
async def client_of(database: Database) -> AsyncIterator[tuple[FastAPI, httpx2.AsyncClient]]:
    app = FastAPI()
    stormproof.install(app, database)

    @app.post("/heroes")
    async def create(
        name: str, session: Annotated[AsyncSession, stormproof.session(database)]
    ) -> Hero:
        hero = Hero(name=name)
        session.add(hero)
        await session.flush()
        if name == "villain":
            raise HTTPException(422)
        return hero

    @app.get("/heroes")
    async def listed(session: Annotated[AsyncSession, Depends(get_db)]) -> list[str]:
        return list(await session.scalars(select(Hero.name).order_by(Hero.name)))

    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield app, client


async def test_an_apps_requests_and_its_overridden_dependency_are_undone(
    heroes: Database,
) -> None:
    async with client_of(heroes) as (app, client):
        for _ in range(2):
            async with rolled_back(heroes) as session:
                app.dependency_overrides[get_db] = giving(session)
                assert (await client.post("/heroes?name=ada")).json()["name"] == "ada"
                assert (await client.post("/heroes?name=villain")).status_code == 422
                assert (await client.get("/heroes")).json() == ["ada"]
        assert await names(heroes) == []
