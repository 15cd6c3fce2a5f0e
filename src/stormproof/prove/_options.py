"""What a run is told: the app, its server, the platform's limits, what to attack."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Server = Literal["uvicorn", "serve", "hypercorn", "granian", "gunicorn", "command"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a platform allows, in seconds.

    Attributes:
        grace: From SIGTERM to SIGKILL.
        lag: How long after SIGTERM its load balancer still sends new requests.
    """

    name: str
    grace: float
    lag: float


PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(name="k8s", grace=30.0, lag=2.0),
        Profile(name="cloud-run", grace=10.0, lag=0.5),
        Profile(name="docker", grace=10.0, lag=0.0),
        Profile(name="ecs", grace=30.0, lag=2.0),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProveOptions:
    """One run of `prove`.

    Attributes:
        app: `module:app`; "" with a command.
        command: What starts the server instead, with `{port}` in it; no agent is inside then.
        directory: Where the app is started.
        profile: What the platform allows.
        deadline: Seconds within which every request must have ended when a dependency is silent.
        is_quick: Shorter attacks, one round each.
        with_writes: Also ask POST, PUT, PATCH and DELETE from OpenAPI.
        only: Ids of audits to make; empty: all.
        skip: Ids of audits to leave out.
        runs: How often a timed audit that failed is tried at most.
        scenario: A TOML file of requests; None: one beside the app's module, or OpenAPI alone.
        dependencies: Name to URL, beside those found in the environment.
        live, ready: Paths of the platform's probes; None: found by their usual names.
        start_limit: Seconds the app may take until it answers.
        allow_remote: Names of dependencies that may lie beyond this machine; left alone.
        environment: Added to the app's environment.
    """

    app: str = ""
    server: Server = "uvicorn"
    command: str = ""
    directory: Path = field(default_factory=Path.cwd)
    profile: Profile = PROFILES["k8s"]
    deadline: float = 10.0
    is_quick: bool = False
    with_writes: bool = False
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    runs: int = 3
    scenario: Path | None = None
    dependencies: Mapping[str, str] = field(default_factory=dict)
    live: str | None = None
    ready: str | None = None
    start_limit: float = 30.0
    allow_remote: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
