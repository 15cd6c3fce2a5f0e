"""`stormproof.primitives()`: every limit, pool and quota is known by kind and name, weakly."""

import gc
import threading
from collections.abc import Iterator

import pytest

import stormproof
from stormproof import errors
from stormproof._core.primitives import Primitive
from stormproof.errors import DeadlineExceeded, LimitExceeded, StormproofError, problem_body


def made() -> Iterator[object]:
    limiter = stormproof.Limiter(3, name="test search")
    yield limiter
    yield stormproof.Adaptive(0.1, name="test quotes")
    yield stormproof.RateLimit(5, per=60, name="test-login")
    yield stormproof.Threads(2, name="test reports")
    yield stormproof.Admission(limiter, name="test http")
    yield stormproof.Upstream(base_url="http://127.0.0.1:9", name="test prices")
    yield stormproof.Hub(name="test news")
    yield stormproof.Tasks(name="test work")
    yield stormproof.Database("sqlite+aiosqlite:///never_opened.db", name="test orders")


def known() -> dict[tuple[str, str], Primitive]:
    gc.collect()
    told = stormproof.primitives()
    return {(one.kind, one.name): one for one in told if one.name.startswith("test")}


async def test_all_are_told_with_their_counts_and_none_is_kept_alive() -> None:
    primitives = list(made())
    limiter = primitives[0]
    assert isinstance(limiter, stormproof.Limiter)
    limiter.close()
    async with stormproof.Limiter(1, name="test inside").slot():
        with pytest.raises(LimitExceeded):
            async with limiter.slot():
                pass
        assert list(known()) == [
            ("adaptive", "test quotes"),
            ("admission", "test http"),
            ("database", "test orders"),
            ("hub", "test news"),
            ("limiter", "test inside"),
            ("limiter", "test search"),
            ("rate", "test-login"),
            ("tasks", "test work"),
            ("threads", "test reports"),
            ("upstream", "test prices"),
        ]
        assert known()["limiter", "test inside"].counts["in_use"] == 1
        assert known()["limiter", "test search"].counts["refusals"] == {"closed": 1}
    primitives.clear()
    del limiter
    assert known() == {}


def test_it_may_be_asked_from_any_thread_while_others_come_and_go() -> None:
    """The admin listener asks from a thread of its own."""
    stopped, failures = threading.Event(), list[BaseException]()

    def ask() -> None:
        try:
            while not stopped.is_set():
                stormproof.primitives()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(20):
            list(made())
    finally:
        stopped.set()
        thread.join()
    assert failures == []


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if getattr(kind, "status", 0) in (429, 503)]
)
def test_every_refusal_has_a_reason(kind: type[StormproofError]) -> None:
    """Errors of 503 that are no refusals but failures say None."""
    failures = (
        errors.DatabaseUnavailable,
        errors.TransactionConflict,
        errors.CircuitOpen,
        errors.BusUnavailable,
        errors.ExportNotReady,
    )
    assert (kind("x").reason is None) == issubclass(kind, failures)


def test_a_problem_says_its_reason() -> None:
    assert b'"reason": "target"' in problem_body(LimitExceeded("x", reason="target"))
    assert b'"reason": "deadline"' in problem_body(DeadlineExceeded("x"))
    assert b'"reason"' not in problem_body(StormproofError("x"))
