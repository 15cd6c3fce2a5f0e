"""A cancelled statement ends in time and leaves nothing: no connection, no row, no task."""

import json

import pytest

from .database_service import OURS, POST, Service, loaded, served
from .database_statements import OPERATIONS


async def check_limit_ends_the_statement(service: Service) -> None:
    """The route has a limit of 0.3 s and runs a statement without end, on a pool of one."""
    threads = (await service.pool())["threads"]
    answer = await service.get("/slow", timeout=2.0)
    assert answer.ended == "complete", "a limit of 0.3 s, and no answer after 2 s"
    assert (answer.status, json.loads(answer.body)["code"]) == (504, "SP301")
    assert (await service.create()).status == 201
    left = await service.settled("threads", threads)
    assert left == threads, "the statement still runs"


async def test_seeds_timeout_cannot_end_a_statement_of_sqlite(sqlite_url: str) -> None:
    """The clean-up after the cancellation waits for the driver's thread, which runs on."""
    async with served(POST, sqlite_url, pool_size=1) as service:
        with pytest.raises(AssertionError, match=r"a limit of 0\.3 s, and no answer after 2 s"):
            await check_limit_ends_the_statement(service)


async def test_deadline_ends_a_statement_of_sqlite(sqlite_url: str) -> None:
    """The statement is interrupted, and its connection's place is free at once."""
    async with loaded(OURS, sqlite_url, pool_size=1) as service:
        await check_limit_ends_the_statement(service)


async def check_storm_leaves_nothing(service: Service) -> None:
    """400 operations, most of them cancelled at random moments, some again and again."""
    tasks = (await service.pool())["tasks"]
    answer = await service.post("/storm", timeout=30.0)
    left = await service.settled("tasks", tasks)
    assert left == tasks, f"{left - tasks} clean-ups never end"
    storm = json.loads(answer.body)
    stored = set(await service.item_names())
    assert storm["errors"] == []
    assert 0 < len(storm["acknowledged"]) < OPERATIONS
    assert stored >= set(storm["acknowledged"])
    assert stored <= set(storm["committing"])
    assert await service.settled("in_use", 0) == 0


async def test_seeds_cancelled_operations_leave_tasks_on_sqlite(sqlite_url: str) -> None:
    """A second cancellation makes two closings of one connection; one waits for a dead thread."""
    async with served(POST, sqlite_url) as service:
        with pytest.raises(AssertionError, match=r"\d clean-ups never end"):
            await check_storm_leaves_nothing(service)


async def test_cancelled_operations_leave_nothing(database_url: str) -> None:
    """What was acknowledged is stored, what was cut before its COMMIT is not."""
    async with loaded(OURS, database_url) as service:
        await check_storm_leaves_nothing(service)


async def check_ledger_balances(service: Service) -> None:
    assert (await service.post("/storm", timeout=30.0)).status == 200
    in_use = await service.settled("ledger", 0)
    assert in_use == 0, f"the ledger says that {in_use} connections are in use"


async def test_ledger_of_checkouts_and_checkins_does_not_balance(postgres_database: str) -> None:
    """A connection that is cut while it is being taken is checked in without a checkout."""
    async with loaded(POST, postgres_database) as service:
        with pytest.raises(AssertionError, match=r"the ledger says that -?\d+ connections"):
            await check_ledger_balances(service)


async def test_statistics_balance_after_cancellations(postgres_database: str) -> None:
    """`database.statistics()` counts the places that were taken and given back."""
    async with loaded(OURS, postgres_database) as service:
        await check_ledger_balances(service)
