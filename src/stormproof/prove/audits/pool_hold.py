"""`pool-hold`: a database connection is not held while nothing is asked of it."""

from collections import defaultdict
from dataclasses import dataclass

from stormproof.prove._audit import Audit, Fix, Judgement, not_applicable, not_measured
from stormproof.prove._recording import AgentEvent, Recording

from ._dependency import first_lines

MOST_IDLE = 0.25
"""Seconds a connection may be held in one request while no statement runs."""

MOST_SHARE = 0.5
SHORTEST = 0.04
"""Seconds a hold must last before its share counts: in a shorter one the idle part is Python."""

ONE_WAIT = 0.03
"""Seconds at a stretch without a statement that are a wait, and not a busy machine's crumbs."""

_SHARE_OF_HOLDS = 0.25
"""A figure that three of four holds reach: a busy machine makes some of them longer."""

_LEAST = 3
"""Holds of a route, below which the machine may have spoken."""

_GROUPS = ("learn", "steady")


@dataclass(frozen=True, slots=True)
class _Held:
    """What is typical of a route's holds; seconds."""

    route: str
    held: float
    idle: float
    longest_idle: float
    stack: tuple[str, ...]

    @property
    def is_too_long(self) -> bool:
        share = self.idle / self.held if self.held else 0.0
        is_a_wait = self.held >= SHORTEST and self.longest_idle >= ONE_WAIT
        return self.idle > MOST_IDLE or (is_a_wait and share >= MOST_SHARE)

    @property
    def said(self) -> str:
        share = 100 * self.idle / self.held if self.held else 0
        return (
            f"{self.route} holds a connection for {1000 * self.held:.0f} ms, "
            f"{1000 * self.idle:.0f} ms of it ({share:.0f} %) without a statement"
        )

    @property
    def figure(self) -> tuple[float, str, float]:
        """The figure that was judged, its unit and its limit: the time, else the share."""
        if self.idle > MOST_IDLE or not self.is_too_long:
            return self.idle, "s", MOST_IDLE
        return 100 * self.idle / self.held, "% of the hold", 100 * MOST_SHARE


def _judge(recording: Recording) -> Judgement:
    record = recording.attack("baseline")
    if record is None or record.problem:
        return not_measured("the light load was not played")
    asked = {request.id for request in record.of_group(*_GROUPS)}
    holds: dict[str, list[AgentEvent]] = defaultdict(list)
    for event in record.of_kind("hold"):
        if event.facts.get("id") in asked and event.facts.get("route"):
            holds[event.facts["route"]].append(event)
    endless = {route.id for route in recording.routes if route.kind == "endless"}
    found = [
        _typical(route, events)
        for route, events in holds.items()
        if len(events) >= _LEAST or route in endless
    ]
    if not found:
        return not_applicable("no route was seen to take a connection from a SQLAlchemy pool")
    found.sort(key=lambda held: held.idle, reverse=True)
    wrong = [held for held in found if held.is_too_long]
    if not wrong:
        return Judgement(
            outcome="pass",
            display=f"{len(found)} of {len(found)} routes give their connection back early: "
            + found[0].said,
            value=found[0].idle,
            unit="s",
            limit=MOST_IDLE,
        )
    value, unit, limit = wrong[0].figure
    return Judgement(
        outcome="fail",
        display=f"{len(wrong)} of {len(found)} routes hold a connection while no statement runs: "
        + wrong[0].said,
        value=value,
        unit=unit,
        limit=limit,
        losses=first_lines(held.said for held in wrong),
        stack=wrong[0].stack,
        routes=tuple(held.route for held in wrong),
    )


def _typical(route: str, events: list[AgentEvent]) -> _Held:
    def reached(name: str) -> float:
        values = sorted(float(event.facts[name]) for event in events)
        return values[int(len(values) * _SHARE_OF_HOLDS)]

    stack = next((event.facts["stack"] for event in events if event.facts.get("stack")), ())
    stack = tuple(map(str, stack))
    return _Held(route, reached("held"), reached("idle"), reached("longest_idle"), stack)


AUDIT = Audit(
    id="pool-hold",
    is_must=True,
    passing="Database connections are given back while nothing is asked of them",
    failing="Database connections are held while the request waits for something else",
    why=(
        "A pool of 15 connections serves thousands of requests a second when each holds one for "
        "a few milliseconds, and 15 requests when each holds one while it calls an upstream, "
        "sends a mail or sleeps. Then the whole service is as slow as the thing waited for, and "
        "at 16 callers the next one waits 30 s for a connection and gets a 500. On PostgreSQL "
        "the transaction is open meanwhile ('idle in transaction') and keeps its locks."
    ),
    fixes=(
        Fix(
            title="Leave the session before you wait for anything else",
            before=(
                "async with AsyncSession(engine) as session:\n"
                "    order = await session.get(Order, id)\n"
                "    await client.post(PAYMENTS, json=order.bill)  # the connection is held\n"
                "    order.is_paid = True\n"
                "    await session.commit()\n"
            ),
            after=(
                "async with AsyncSession(engine) as session:\n"
                "    bill = (await session.get(Order, id)).bill\n"
                "await client.post(PAYMENTS, json=bill)\n"
                "async with AsyncSession(engine) as session, session.begin():\n"
                "    (await session.get(Order, id)).is_paid = True\n"
            ),
        ),
        Fix(
            title="With stormproof: two units of work, and a pool whose wait is bounded",
            before="async with AsyncSession(engine) as session: ...\n",
            after=(
                "async with database.read_session() as session: ...\n"
                "await upstream.post(PAYMENTS, json=bill)\n"
                "async with database.session() as session: ...\n"
            ),
        ),
    ),
    attacks=("baseline",),
    judge=_judge,
    needs_agent=True,
    is_timed=False,
    weight=4,
)
