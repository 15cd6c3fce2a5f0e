"""What an attack is, and the scene it plays on: one fresh server of the app, watched throughout."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from ._options import ProveOptions
from ._recording import Route
from .faults import FaultProxy
from .link import AgentLink
from .load import Ledger, Shot
from .target import Target


@dataclass(slots=True, kw_only=True)
class Grounds:
    """What is known of the app before a server is started for an attack.

    Attributes:
        routes: All that were learned.
        dependencies: Names of those that are rerouted through fault proxies.
        has_agent: Whether the agent gets into the app.
    """

    routes: tuple[Route, ...] = ()
    dependencies: tuple[str, ...] = ()
    has_agent: bool = False

    def of_kind(self, *kinds: str) -> tuple[Route, ...]:
        """Return the routes of these kinds."""
        return tuple(route for route in self.routes if route.kind in kinds)


@dataclass(slots=True, kw_only=True)
class Scene(Grounds):
    """What one attack has to work with.

    The server is started and warm, the canary asks, the process tree is sampled, and the agent's
    census before the attack is in `facts["census-before"]`. When the attack returns, the scene
    waits up to 3 s for the census to come back, takes it as `facts["census-after"]`, ends the
    server (unless the attack has done so) and writes the record.

    Attributes:
        target: The server's processes; `target.port` is where it listens.
        ledger: Where every request goes down; `ledger.now()` is the recording's time.
        agent: The link into the app; None with a command or where injection failed.
        proxies: By name, the fault proxies before the app's dependencies.
        marks: Named times.
        facts: What else the audits have to know; JSON values.
        scale: Scales the attack's length: 1.0, or less with `--quick`.
        again: Starts the app once more, without the agent, for as long as the block lasts: for
            when the first server has gone.
        resting: Set by the attack when from here on it only waits: others may be played beside it.
    """

    options: ProveOptions
    target: Target
    ledger: Ledger
    agent: AgentLink | None
    proxies: dict[str, FaultProxy]
    marks: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    again: Callable[[], AbstractAsyncContextManager[Target]]
    resting: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def port(self) -> int:
        """Where the app listens, on 127.0.0.1."""
        return self.target.port

    def mark(self, name: str) -> float:
        """Give the present moment a name; audits and plots use it."""
        self.marks[name] = now = self.ledger.now()
        return now

    def shots(self, *kinds: str) -> tuple[Shot, ...]:
        """Return what to send to the routes of these kinds."""
        return tuple(Shot.of(route) for route in self.of_kind(*kinds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One attack.

    Attributes:
        name: As audits name it.
        title: What the progress display says while it runs: "at SIGTERM, under load".
        seconds: What it takes about, at full length; the display counts down with it.
        run: Plays it; what it raises becomes the record's problem.
        fits: Why there is nothing for it to do with these routes, or "".
        has_canary: Whether the canary asks meanwhile.
    """

    name: str
    title: str
    seconds: float
    run: Callable[[Scene], Awaitable[None]]
    fits: Callable[[Grounds], str] = lambda _: ""
    has_canary: bool = True
