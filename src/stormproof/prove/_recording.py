"""The recording: what the attacks saw, as plain facts that audits read and a file can hold.

All times are seconds since the recording began. The clock is the machine's monotonic one, which
the app's processes share, so what the client saw and what the agent saw lie on one line.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

SCHEMA = 1

Ended = Literal["complete", "truncated", "reset", "refused", "timeout", "left", "unsent"]
"""How a request ended, as its client saw it.

complete: a whole answer; truncated: closed in mid-answer; reset: closed or reset before the
answer's first byte; refused: nobody listened; timeout: the client gave up; left: the client went
away on purpose; unsent: the generator had no time or connection to send it.
"""

RouteKind = Literal["plain", "stream", "endless", "health", "broken"]
"""plain: ends by itself; stream: sends for a while and ends; endless: does not end by itself;
health: a probe of the platform; broken: it never answered 2xx, so nothing is asked of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request of the ledger.

    Attributes:
        id: Its number, sent as `X-Stormproof-Id`; the agent's events name it.
        route: Id of its route, `GET /items/{id}`, or a word in parentheses for none.
        group: Which part it had in the attack, for instance `steady` or `late`.
        intended_at: When the schedule wanted it sent; latency counts from here.
        sent_at: When its last byte was handed to the socket; None: never.
        first_byte_at: When the answer's first byte came.
        last_byte_at: When the answer was complete, or the connection ended.
        status: Of the answer; 0: none came.
        size_bytes: Of the answer's body, as far as it came.
        connection: Number of its connection; the same number twice is keep-alive.
        is_reused: Whether the connection had carried a request before.
        headers: Those of the answer that audits read (lower case), or nothing.
        note: What else is worth a line, for instance the end of a body.
    """

    id: int
    route: str
    group: str
    intended_at: float
    sent_at: float | None
    first_byte_at: float | None
    last_byte_at: float | None
    status: int
    ended: Ended
    size_bytes: int = 0
    connection: int = 0
    is_reused: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it was answered whole with a status below 400."""
        return self.ended == "complete" and 200 <= self.status < 400

    @property
    def latency(self) -> float | None:
        """Seconds from the intended sending to the last byte; None without an end."""
        return None if self.last_byte_at is None else self.last_byte_at - self.intended_at


@dataclass(frozen=True, slots=True)
class Probe:
    """One question of the canary: when it was asked, what it took, the status (0: no answer)."""

    at: float
    seconds: float
    status: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The whole process tree at one time: memory, threads, descriptors, CPU seconds so far."""

    at: float
    rss_bytes: int
    threads: int
    fds: int
    cpu_seconds: float
    processes: int


@dataclass(frozen=True, slots=True)
class AgentEvent:
    """One line of the agent inside the app; `facts` depend on the kind (see docs/audits)."""

    at: float
    pid: int
    kind: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How the server ended.

    Attributes:
        at: When its last process had gone.
        code: As the shell sees it; negative: the signal. None: it had to be killed.
        is_killed: Whether prove had to kill it.
        tail: The last lines of its output.
    """

    at: float
    code: int | None
    is_killed: bool
    tail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route of the app, as it was learned.

    Attributes:
        id: `GET /items/{id}`.
        url: Path and query that are really asked for.
        kind: What its answers are like.
        is_sync: Whether its endpoint is a `def`; None: unknown.
        has_sync_part: Whether its endpoint or one of its dependencies runs in a thread.
        is_promise: Whether a 2xx promises something (a scenario said so, or it writes).
        where: `file:line` of its endpoint, or "".
        uses: What it was seen to use: `pool`, `outbound`, `background`, `task`,
            `dependency:NAME`.
        seconds: Median answer time under light load.
        weight: Share of the traffic, from the scenario.
        kept: How to look up later that the promise was kept: `path`, `contains`, `within`.
    """

    id: str
    method: str
    path: str
    url: str
    kind: RouteKind = "plain"
    status: int = 200
    is_sync: bool | None = None
    has_sync_part: bool = False
    is_promise: bool = False
    where: str = ""
    uses: tuple[str, ...] = ()
    seconds: float = 0.0
    weight: float = 1.0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    health: Literal["", "live", "ready", "both"] = ""
    kept: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackRecord:
    """What one attack saw.

    Attributes:
        name: Of the attack.
        round: 0, or more where a timed attack was run again.
        marks: Named times, for instance `signal`, `fault-begun`, `fault-ended`.
        facts: What the attack knows and the series do not say; JSON values.
        exit: How the server ended.
        problem: Why the attack could not be run, one sentence; audits are `not-measured` then.
        unfit: Why there was nothing for it to do in this app; audits are `n-a` then.
    """

    name: str
    round: int = 0
    began_at: float = 0.0
    ended_at: float = 0.0
    marks: Mapping[str, float] = field(default_factory=dict)
    requests: tuple[Request, ...] = ()
    canary: tuple[Probe, ...] = ()
    samples: tuple[Sample, ...] = ()
    events: tuple[AgentEvent, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    exit: Exit | None = None
    problem: str = ""
    unfit: str = ""

    def of_group(self, *groups: str) -> tuple[Request, ...]:
        """Return the requests of these groups."""
        return tuple(request for request in self.requests if request.group in groups)

    def of_kind(self, *kinds: str) -> tuple[AgentEvent, ...]:
        """Return the agent's events of these kinds."""
        return tuple(event for event in self.events if event.kind in kinds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Everything one run saw.

    Attributes:
        app: `module:app`, or the command.
        server: `uvicorn`, `serve`, `hypercorn`, `granian`, `gunicorn` or `command`.
        machine: Words and numbers about the machine: `cpu`, `cores`, `system`, `python`.
        profile: `name`, `grace`, `prestop`, `deadline`, `quick`.
        dependencies: Names of those that are rerouted through the fault proxy.
        has_agent: Whether the agent was inside; without it some audits are `not-measured`.
        notes: Sentences for the report's reader, for instance what was left out.
    """

    app: str
    server: str
    stormproof: str
    started: str
    machine: Mapping[str, str]
    profile: Mapping[str, Any]
    has_agent: bool = True
    dependencies: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    attacks: tuple[AttackRecord, ...] = ()
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA

    def attack(self, name: str) -> AttackRecord | None:
        """Return the attack of that name, the last round where there are several."""
        found = [attack for attack in self.attacks if attack.name == name]
        return max(found, key=lambda attack: attack.round) if found else None

    def in_round(self, number: int) -> "Recording":
        """Return this recording as round `number` saw it: later rounds of attacks left out."""
        kept = tuple(attack for attack in self.attacks if attack.round <= number)
        return replace(self, attacks=kept)

    def rounds(self, name: str) -> int:
        """Return how often the attack was run."""
        return sum(attack.name == name for attack in self.attacks)

    def route(self, id: str) -> Route | None:
        """Return the route of that id."""
        return next((route for route in self.routes if route.id == id), None)

    def measured(self, *names: str) -> Iterator[AttackRecord]:
        """Yield the last round of each of these attacks (default: of all) that could be run."""
        for name in names or dict.fromkeys(attack.name for attack in self.attacks):
            found = self.attack(name)
            if found is not None and not found.problem and not found.unfit:
                yield found
