"""The jobs of an app at the admin listener: looked at by anybody, changed only when allowed."""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

_PATIENCE = 0.5
"""Seconds the loop and the database have to answer. A worker under a parent answers one question
after another: it must not be taken for silent because its database is slow."""

LONGEST_BODY = 65_536

_log = logging.getLogger("stormproof")

Ask: TypeAlias = Callable[[bytes], bytes | None]
"""Puts a question (JSON, on one line) to an app's jobs and returns the answer; None: no jobs."""

Answer: TypeAlias = tuple[int, Mapping[str, Any] | Sequence[Any]]


@runtime_checkable
class KeepsJobs(Protocol):
    """A part with jobs, told by its shape: the room itself may not be installed."""

    def overview(self) -> Coroutine[Any, Any, dict[str, Any]]:
        """Return what is to be seen, as JSON."""
        ...

    async def retry(self, *ids: int) -> int:
        """Queue held jobs again; return how many there were."""
        ...

    async def cancel(self, *ids: int) -> int:
        """Take jobs out of the queue; return how many there were."""
        ...


class JobsDesk:
    """Answers questions about an app's jobs in the app's own process; called from any thread.

    Args:
        parts: The parts of the service; those that keep jobs are asked.
        loop: Returns the loop they live on, or None before it runs.
    """

    def __init__(
        self, parts: Sequence[object], loop: Callable[[], asyncio.AbstractEventLoop | None]
    ) -> None:
        self._keepers = [part for part in parts if isinstance(part, KeepsJobs)]
        self._loop = loop

    def __call__(self, question: bytes) -> bytes | None:
        """Answer one question; waits at most half a second, then says so."""
        loop = self._loop()
        if not self._keepers or loop is None or loop.is_closed():
            return None
        answering = self._answer(json.loads(question))
        try:
            future = asyncio.run_coroutine_threadsafe(answering, loop)
            status, body = future.result(_PATIENCE)
        except TimeoutError:
            # What was begun goes on: a change that is not confirmed may have been made.
            status, body = 503, {"detail": f"the jobs did not answer within {_PATIENCE} s"}
        except Exception as error:
            answering.close()  # it was never begun where the loop has just been closed
            status, body = 503, {"detail": f"no answer: {type(error).__name__}"}
        return json.dumps({"status": status, "body": body}).encode()

    async def _answer(self, question: Mapping[str, Any]) -> Answer:
        verb, ids = question["verb"], question.get("ids", [])
        if verb == "overview":
            return 200, [await keeper.overview() for keeper in self._keepers]
        if len(self._keepers) > 1:
            return 409, {"detail": "the app has several Jobs, and ids are not unique among them"}
        (keeper,) = self._keepers
        change = keeper.retry if verb == "retry" else keeper.cancel
        count = await change(*ids)
        _log.info("admin listener: %s jobs %s: %d of them", verb, ids, count)
        return 200, {verb: count}


def answer(
    method: str, path: str, body: bytes, kind: str, ask: Ask, *, may_change: bool
) -> Answer | None:
    """Return status and body for a request to `/jobs`, `/jobs/retry` or `/jobs/cancel`.

    None: it is for none of them, or its method is not theirs.
    """
    verb = path.removeprefix("/jobs/")
    if method == "GET" and path == "/jobs":
        return _put({"verb": "overview"}, ask)
    if method != "POST" or path == verb or verb not in ("retry", "cancel"):
        return None
    if not may_change:
        return 403, {"detail": "jobs may only be looked at; serve with --admin-jobs change"}
    if kind.partition(";")[0].strip() != "application/json":
        # A page in an operator's browser can send a form here, but no JSON without asking.
        return 415, {"detail": "send JSON, with content-type: application/json"}
    ids = _ids(body)
    if not ids:
        return 422, {"detail": 'the body must be {"ids": [1, 2]}'}
    return _put({"verb": verb, "ids": ids}, ask)


def _put(question: Mapping[str, Any], ask: Ask) -> Answer:
    told = ask(json.dumps(question).encode())
    if told is None:
        return 404, {"detail": "no jobs here: the app has none, or it has not started"}
    found = json.loads(told)
    return found["status"], found["body"]


def _ids(body: bytes) -> list[int]:
    """Return the ids that a body names; none when it is no such body."""
    try:
        ids = json.loads(body)["ids"]
    except (ValueError, TypeError, KeyError):
        return []
    if not isinstance(ids, list) or any(type(one) is not int for one in ids):
        return []
    return ids
