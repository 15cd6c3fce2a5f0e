"""A session shared by two tasks is refused always, not only before its first statement."""

import json

import pytest

from tests.harness import Answer

from .database_service import OURS, POST, Service, loaded, served


async def check_sharing_is_refused_always(service: Service) -> None:
    """The route gathers two statements on one session, which has a connection already or not."""
    assert (await service.post("/cold")).status == 200
    cold = await service.get("/both")
    warm = await service.get("/both?read_first=true")
    assert cold.status == warm.status, f"cold: {cold.status}, warm: {warm.status}"
    assert [(answer.status, code(answer)) for answer in (cold, warm)] == [(500, "SP403")] * 2
    assert await service.settled("in_use", 0) == 0


def code(answer: Answer) -> str:
    return str(json.loads(answer.body)["code"])


async def test_seed_refuses_a_shared_session_only_while_it_connects(sqlite_url: str) -> None:
    """With a connection at hand the two wait for each other, unnoticed: so tests pass."""
    async with served(POST, sqlite_url) as service:
        with pytest.raises(AssertionError, match="cold: 500, warm: 200"):
            await check_sharing_is_refused_always(service)


async def test_shared_session_is_refused_cold_and_warm(database_url: str) -> None:
    """The session knows the task that is in the middle of a statement."""
    async with loaded(OURS, database_url) as service:
        await check_sharing_is_refused_always(service)
