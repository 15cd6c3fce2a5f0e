"""An answer of success means that the row is stored, also when the COMMIT is refused."""

import json

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, insert
from sqlalchemy.ext.asyncio import create_async_engine

from .database_service import DEMO, OURS, POST, Service, loaded

tables = MetaData()
shelves = Table("shelves", tables, Column("number", Integer, primary_key=True))
# The table `items` as in the demo, but each quantity must be the number of a shelf. The database
# looks for it at the COMMIT: every statement before succeeds.
at_commit = ForeignKey("shelves.number", deferrable=True, initially="DEFERRED")
Table(
    "items",
    tables,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False),
    Column("quantity", Integer, at_commit, nullable=False),
)


@pytest.fixture
async def refusing_url(database_url: str) -> str:
    """URL of a database that refuses to commit an item, unless its quantity is 1."""
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(tables.create_all)
        await connection.execute(insert(shelves).values(number=1))
    await engine.dispose()
    return database_url


async def check_success_means_stored(service: Service) -> None:
    assert (await service.create("bolt", quantity=1)).status == 201
    refused = await service.create("nut", quantity=7)
    names = await service.item_names()
    assert refused.status != 201 or "nut" in names, "answered 201, but the row is not stored"
    assert (refused.status, json.loads(refused.body)["code"]) == (409, "SP409")
    assert names == ["bolt"]


async def test_seed_answers_201_for_a_row_whose_commit_fails(refusing_url: str) -> None:
    """The exit of a `yield` dependency, and so its COMMIT, runs after the response was sent."""
    async with loaded(POST, refusing_url) as service:
        with pytest.raises(AssertionError, match="answered 201, but the row is not stored"):
            await check_success_means_stored(service)


@pytest.mark.parametrize("ours", [OURS, DEMO])
async def test_commit_that_fails_is_answered_with_409(ours: str, refusing_url: str) -> None:
    """The COMMIT comes before the first byte of the answer."""
    async with loaded(ours, refusing_url) as service:
        await check_success_means_stored(service)
