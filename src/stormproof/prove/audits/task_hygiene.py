"""`task-hygiene`: no coroutine is forgotten, no exception is lost, no task vanishes."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from stormproof.prove._audit import Audit, Fix, Judgement, not_measured
from stormproof.prove._recording import AgentEvent, AttackRecord, Recording

from ._served import has_own_line, played_until

_UNDISTURBED = frozenset({"baseline", "clients", "patience"})
"""Attacks in which nothing that the app depends on is broken."""

_WORDS = {
    "never-awaited": "a coroutine was never awaited, so its work was never done",
    "never-retrieved": "a task failed and nobody saw its exception",
    "destroyed-pending": "a task was thrown away by the garbage collector in mid-work",
    "failed": "a task outlived the request that made it, and failed",
}


def _judge(recording: Recording) -> Judgement:
    if not any(recording.measured()):
        return not_measured("no attack was played")
    faults: Counter[str] = Counter()
    worst: list[AgentEvent] = []
    for event, said in _faults(recording):
        if said not in faults:
            worst.append(event)
        faults[said] += 1
    if not faults:
        return Judgement(
            outcome="pass",
            display="no coroutine was forgotten, no exception lost, no task destroyed",
            value=0,
            unit="faults",
            limit=0,
        )
    lines = [f"{count} times {said}" for said, count in faults.most_common()]
    routes = (event.facts.get("route") for event in worst)
    return Judgement(
        outcome="fail",
        display=lines[0] + (f", and {len(lines) - 1} other kinds" if len(lines) > 1 else ""),
        value=faults.total(),
        unit="faults",
        limit=0,
        losses=tuple(lines[:5]),
        stack=_stack(worst[0].facts),
        routes=tuple(dict.fromkeys(str(route) for route in routes if route)),
    )


def _faults(recording: Recording) -> Iterator[tuple[AgentEvent, str]]:
    """Yield each fault with what is said of it; those of the app's own end are left out."""
    for record in recording.measured():
        until = played_until(record)
        for event in record.of_kind("hygiene"):
            if event.at <= until and _is_the_apps(record, event.facts):
                yield event, _said(event.facts)
        if record.name == "baseline":
            # Elsewhere clients leave and dependencies are down, and a task may well fail of that.
            for event in record.of_kind("task"):
                if event.at <= until and event.facts.get("what") == "failed":
                    yield event, _said(event.facts)


def _is_the_apps(record: AttackRecord, facts: Mapping[str, Any]) -> bool:
    """Whether it names a line of the app, or, where no fault was made, at least a request.

    A library may well drop a future when its server is gone, and the collector finds it in
    whatever request is at work by then.
    """
    return has_own_line(facts) or (record.name in _UNDISTURBED and bool(facts.get("route")))


def _said(facts: Mapping[str, Any]) -> str:
    where = f"{facts['file']}:{facts['line']}" if facts.get("file") else "in a library"
    message = str(facts.get("message") or facts.get("error") or facts.get("name") or "")
    message = message.strip().partition("\n")[0][:160]
    route = f" ({facts['route']})" if facts.get("route") else ""
    told = f": {message}" if message else ""
    return f"{_WORDS.get(facts['what'], facts['what'])}, {where}{route}{told}"


def _stack(facts: Mapping[str, Any]) -> tuple[str, ...]:
    return (f"{facts['file']}:{facts['line']}",) if facts.get("file") else ()


AUDIT = Audit(
    id="task-hygiene",
    is_must=True,
    passing="Every coroutine is awaited, and every task's end is seen",
    failing="Work is lost without a word: a coroutine, a task or its exception is forgotten",
    why=(
        "A task that nobody keeps can be collected in mid-work; one that nobody awaits fails "
        "without a log line that names the request; a coroutine without `await` does nothing at "
        "all. The client has its 200 in each case, and the mail, the audit row or the payment "
        "never happened."
    ),
    fixes=(
        Fix(
            title="Give each task an owner that sees its end, with plain FastAPI",
            before=(
                "@app.post('/orders')\n"
                "async def order(order: Order) -> Order:\n"
                "    asyncio.create_task(send_mail(order))  # nobody keeps it, nobody looks\n"
                "    audit(order)  # a coroutine that is never awaited\n"
                "    return order\n"
            ),
            after=(
                "@app.post('/orders')\n"
                "async def order(order: Order, background: BackgroundTasks) -> Order:\n"
                "    await audit(order)\n"
                "    background.add_task(send_mail, order)  # a failure is logged\n"
                "    return order\n"
            ),
        ),
        Fix(
            title="With stormproof: supervised tasks",
            before="asyncio.create_task(send_mail(order))\n",
            after="tasks.spawn(send_mail, order)  # kept, logged, waited for at shutdown\n",
        ),
    ),
    attacks=("baseline", "clients"),
    judge=_judge,
    needs_agent=True,
    weight=4,
)
