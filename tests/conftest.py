"""Fixtures for every test: the leak guard, and servers that start when first asked for."""

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator

import pytest
from pytest_asyncio import is_async_test

from tests.harness.leaks import current_holdings, describe_new_holdings, describe_pending_tasks
from tests.harness.postgres import SpareDatabases, running_postgres
from tests.harness.redis import RedisServer, running_redis

_HAS_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember that a test failed: its traceback keeps things alive that are not its leaks."""
    report = yield
    if report.failed:
        item.stash[_HAS_FAILED] = True
    return report


@pytest.fixture(autouse=True)
def _guard_threads_and_descriptors(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread, a socket or an open file behind.

    It is set up first, so it looks last: after the other fixtures and the closing of the loop.
    """
    before = current_holdings()
    yield
    if not request.node.stash.get(_HAS_FAILED, False):
        _fail_if_leaked(describe_new_holdings(before))


@pytest.fixture(autouse=True)
def _guard_tasks(
    request: pytest.FixtureRequest, _guard_threads_and_descriptors: None
) -> Iterator[None]:
    """Fail an async test when a task is pending on its loop after the test and its fixtures."""
    if not is_async_test(request.node):
        yield
        return
    loop: asyncio.AbstractEventLoop = request.getfixturevalue("_test_loop")
    yield
    if not request.node.stash.get(_HAS_FAILED, False):
        _fail_if_leaked(describe_pending_tasks(loop))


@pytest.fixture
async def _test_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of one PostgreSQL for the whole run; prefer `postgres_database`."""
    with running_postgres() as url:
        yield url


@pytest.fixture(scope="session")
def _spare_databases(postgres_url: str) -> Iterator[SpareDatabases]:
    databases = SpareDatabases(postgres_url)
    yield databases
    asyncio.run(databases.drop())


@pytest.fixture
async def postgres_database(_spare_databases: SpareDatabases) -> AsyncIterator[str]:
    """URL of an empty PostgreSQL database of the test's own."""
    async with _spare_databases.lent() as url:
        yield url


@pytest.fixture(scope="session")
def _redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def redis_server(_redis: RedisServer) -> RedisServer:
    """One Valkey for the whole run, emptied for each test.

    A test that kills or stalls its server runs its own: `running_redis()`.
    """
    _redis.clear()
    return _redis


def _fail_if_leaked(leaks: list[str]) -> None:
    if leaks:
        pytest.fail("the test leaked:\n  " + "\n  ".join(leaks), pytrace=False)
