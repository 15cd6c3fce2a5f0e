"""`leak-free`: tasks, threads, descriptors and connections are back to where they were."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stormproof.prove._audit import Audit, Fix, Judgement, not_measured
from stormproof.prove._recording import AttackRecord, Recording

from ._served import handled

_ALLOWED: Mapping[str, tuple[int, int]] = {"tasks": (5, 20), "fds": (12, 250), "threads": (80, 80)}
"""What may be left when pools were filled before and one client or few asked, and else.

Pools and HTTP clients keep descriptors for each caller they ever had (three for a connection to
SQLite), anyio and asyncio up to 72 idle threads. What leaks with each request is more than that:
an attack sends some dozens of each kind.
"""

_FROM: Mapping[str, str] = {"baseline": "census-steady", "clients": "census-warm"}
"""The counts of attacks that fill the pools first, and behave in a small way after it."""

_WORDS = {"tasks": "tasks", "fds": "open files and sockets", "threads": "threads"}
_HELD = 1.0
"""Seconds from which a connection that is out has been kept; a shorter one is at work."""


def _judge(recording: Recording) -> Judgement:
    records = [record for record in recording.measured() if _is_counted(record)]
    if not records:
        return not_measured("nothing was counted after an attack")
    losses: list[str] = []
    worst, stack = 0, ()
    for record in records:
        kept = list(_kept(record))
        if kept:
            losses.append(_kept_said(record, kept))
            worst, stack = max(worst, len(kept)), stack or tuple(kept[0].get("stack", ()))
        for growth, said in _grown(record):
            losses.append(said)
            worst = max(worst, growth)
    names = ", ".join(record.name for record in records)
    return Judgement(
        outcome="fail" if losses else "pass",
        display=losses[0]
        if losses
        else f"tasks, threads, descriptors and connections were back after {names}",
        value=worst,
        unit="left over",
        limit=0,
        losses=tuple(losses[:5]),
        stack=stack,
    )


def _is_counted(record: AttackRecord) -> bool:
    facts = record.facts
    return bool(facts.get("census-before") and facts.get("census-after"))


def _kept(record: AttackRecord) -> Iterator[Mapping[str, Any]]:
    """Yield the connections that requests which have ended took and did not give back."""
    before = {_number(checkout) for checkout in record.facts["census-before"]["checkouts"]}
    under_way = _ids_under_way(record)
    for checkout in record.facts["census-after"]["checkouts"]:
        is_old = _number(checkout) in before
        if checkout.get("route") is None or is_old or float(checkout["held"]) < _HELD:
            continue
        if checkout.get("id") not in under_way:
            yield checkout


def _number(checkout: Mapping[str, Any]) -> tuple[Any, Any]:
    return checkout.get("pool"), checkout.get("record")


def _kept_said(record: AttackRecord, kept: Sequence[Mapping[str, Any]]) -> str:
    routes = Counter(str(checkout["route"]) for checkout in kept)
    names = ", ".join(f"{route} {count} times" for route, count in routes.most_common(3))
    return f"{len(kept)} database connections never came back after {record.name}: {names}"


def _grown(record: AttackRecord) -> Iterator[tuple[int, str]]:
    """Yield what there is more of than before, beyond what an app may keep."""
    after = record.facts["census-after"]
    sent = sum(request.sent_at is not None for request in record.requests)
    for name, (few, many) in _ALLOWED.items():
        before, allowed = record.facts["census-before"], many
        if filled := record.facts.get(_FROM.get(record.name, "")):
            # Tasks are kept by no pool: those that a burst left are counted as well.
            before, allowed = (before if name == "tasks" else filled), few
        growth = int(after.get(name, 0)) - int(before.get(name, 0))
        if name == "tasks":
            growth -= _working(record)
        if growth > allowed:
            by_name = _by_name(before, after) if name == "tasks" else ""
            yield (
                growth,
                f"{growth} {_WORDS[name]} more than before were left after {record.name} "
                f"({before[name]} → {after[name]}, {sent} requests){by_name}",
            )


def _by_name(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    grown = Counter(after.get("tasks_by_name", {}))
    grown.subtract(before.get("tasks_by_name", {}))
    name, count = max(grown.items(), key=lambda item: item[1], default=("", 0))
    return f": {count} of {name}" if count > 0 else ""


def _ids_under_way(record: AttackRecord) -> set[Any]:
    """Return the requests that are still at work, or whose tasks are and come to an end."""
    return _unended_handlers(record) | {event.facts.get("id") for event in _unended_work(record)}


def _working(record: AttackRecord) -> int:
    """Return how many tasks are still at work on something that is seen to come to an end."""
    return len(_unended_handlers(record)) + len(_unended_work(record))


def _unended_handlers(record: AttackRecord) -> set[int]:
    """Return the requests without a stream that were left or given up, and work on."""
    ended = handled(record)
    return {
        request.id
        for request in record.requests
        if request.ended in ("left", "timeout") and request.group in ("left", "overload", "steady")
        if request.sent_at and request.first_byte_at is None and request.id not in ended
    }


def _unended_work(record: AttackRecord) -> list[Any]:
    """Return the tasks that outlive their request, of a kind of which others have finished."""
    events = record.of_kind("task", "background")
    ended = {
        (event.pid, event.facts["key"])
        for event in events
        if event.facts["what"] in ("finished", "failed", "cancelled")
    }
    kinds = {_work(event) for event in events if event.facts["what"] == "finished"}
    return [
        event
        for event in events
        if event.facts["what"] in ("outlived", "started")
        and (event.pid, event.facts["key"]) not in ended
        and _work(event) in kinds
    ]


def _work(event: Any) -> tuple[Any, ...]:
    facts = event.facts
    return event.kind, facts.get("name"), facts.get("file"), facts.get("line")


AUDIT = Audit(
    id="leak-free",
    is_must=True,
    passing="Tasks, threads, descriptors and connections are back after every attack",
    failing="Something is left over from requests that have ended, and it adds up",
    why=(
        "What leaks a piece a request ends the process some hours later: the pool is empty and "
        "every request waits 30 s for a connection, or the descriptors are used up and nobody "
        "gets in. The path that leaks is seldom the happy one: it is the 404, the wrong value, "
        "the client that left. A restart hides it until the next busy day."
    ),
    fixes=(
        Fix(
            title="Give back where it was taken, whatever happens in between",
            before=(
                "connection = await engine.connect()\n"
                "row = await connection.scalar(query)\n"
                "if row is None:\n"
                "    raise HTTPException(404)  # the connection never comes back\n"
                "await connection.close()\n"
            ),
            after=(
                "async with engine.connect() as connection:\n"
                "    row = await connection.scalar(query)\n"
                "if row is None:\n"
                "    raise HTTPException(404)\n"
            ),
        ),
        Fix(
            title="With stormproof: a session that ends before the answer, a supervisor for tasks",
            before="asyncio.create_task(watch(order))\n",
            after=("async with database.session() as session: ...\ntasks.spawn(watch, order)\n"),
        ),
    ),
    attacks=("baseline", "clients"),
    judge=_judge,
    needs_agent=True,
    weight=5,
)
