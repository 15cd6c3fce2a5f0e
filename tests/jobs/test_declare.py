"""Declarations say at once what cannot be a job."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from pydantic import BaseModel

from stormproof.database import Database
from stormproof.errors import InvalidSetting, PayloadMismatch
from stormproof.jobs import Job, Jobs
from stormproof.jobs._payload import Arguments


class Order(BaseModel):
    id: UUID
    at: datetime


async def no_type(x) -> None: ...  # type: ignore[no-untyped-def]


async def many(*numbers: int) -> None: ...


async def named_like_an_option(key: str) -> None: ...


def blocking(x: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (no_type, "parameter 'x' has no type"),
        (many, "name each parameter"),
        (named_like_an_option, "'key' has the name of an option"),
        (blocking, "must be an async function"),
    ],
)
def test_a_function_that_cannot_be_stored_is_refused(
    function: object, words: str, tmp_path: object
) -> None:
    jobs = Jobs(Database(f"sqlite:///{tmp_path}/test.db"))
    with pytest.raises(InvalidSetting, match=words):
        jobs.task()(function)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"retries": -1},
        {"timeout": 0},
        {"concurrency": 0},
        {"on_failure": "forget"},
        {"backoff": float("nan")},
        {"timeout": "30"},
        {"per_group": 1.5},
        {"max_starts": 0},
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, object], tmp_path: object) -> None:
    jobs = Jobs(Database(f"sqlite:///{tmp_path}/test.db"))
    with pytest.raises(InvalidSetting):
        jobs.task(**options)  # type: ignore[arg-type]


def test_arguments_come_back_as_what_they_were() -> None:
    async def send(order: Order, tags: set[str], job: Job, copies: int = 1) -> None: ...

    arguments = Arguments("send", send)
    order = Order(id=UUID(int=7), at=datetime(2030, 1, 1, tzinfo=UTC))
    stored = arguments.dump(order, tags={"a", "b"})
    assert arguments.load(stored) == {"order": order, "tags": {"a", "b"}, "copies": 1}
    assert arguments.wants_job == ["job"]
    with pytest.raises(PayloadMismatch, match="its version is 2"):
        arguments.load(stored.replace(b'"v":1', b'"v":2'))
    with pytest.raises(PayloadMismatch):
        arguments.load(b"no json")


def test_pauses_double_up_to_the_longest_and_half_of_each_is_chance(tmp_path: object) -> None:
    async def work() -> None: ...

    jobs = Jobs(Database(f"sqlite:///{tmp_path}/test.db"))
    task = jobs.task(backoff=1.0, max_backoff=10.0)(work)
    assert [task.pause(failures, 1.0) for failures in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert task.pause(3, 0.0) == 2.0
