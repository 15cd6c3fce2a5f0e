"""Explain: the numbers that each platform must have, so that they agree with the service's own."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from ._options import OVERTIME

_SPARE = 4.0
"""Seconds more that a platform is told to wait, for its own delays."""

_CLOUD_RUN_LIMIT = 10.0
_ECS_DEFAULT, _ECS_FARGATE_LIMIT = 30.0, 120.0
_LEAST_LAME_DUCK = 3.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be run, and the settings in force.

    Attributes:
        target: `module:app`.
        host: The address it listens on.
        port: The port it listens on.
        workers: How many processes.
        grace: Seconds from SIGTERM to the end of everything.
        prestop: Seconds of lame duck at its beginning.
        keep_alive: Seconds an idle connection is kept.
        certfile: The certificate it serves with, or None.
        keyfile: The key to it, or None.
    """

    target: str
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    grace: float = 30.0
    prestop: float = 5.0
    keep_alive: float = 75.0
    certfile: str | None = None
    keyfile: str | None = None

    @property
    def wait(self) -> int:
        """Whole seconds a platform must wait before it kills: above the grace."""
        return math.ceil(self.grace + OVERTIME + _SPARE)


@dataclass(frozen=True, slots=True)
class Advice:
    """What one platform is to be told.

    Attributes:
        platform: Its name.
        source: The page of its documentation that the numbers are from.
        snippet: Text to copy.
        warnings: Where the settings do not fit, one sentence each.
    """

    platform: str
    source: str
    snippet: str
    warnings: tuple[str, ...] = ()


def explain(plan: Plan) -> tuple[Advice, ...]:
    """Return the advice for each platform; a pure function of `plan`."""
    return (_kubernetes(plan), _systemd(plan), _docker(plan), _cloud_run(plan), _ecs(plan))


def as_text(plan: Plan, advice: Sequence[Advice]) -> str:
    """Return `advice` to be read by a person."""
    lines = [
        f"{plan.target}: grace {plan.grace:g} s from SIGTERM to the end of everything,",
        f"of it {plan.prestop:g} s of lame duck, in which requests are still accepted.",
        f"A platform has to wait longer than the grace before it kills: {plan.wait} s.",
        f"Idle connections are kept {plan.keep_alive:g} s: "
        "a load balancer in front must close its own earlier.",
    ]
    for one in advice:
        lines += ["", f"## {one.platform} ({one.source})"]
        lines += [f"WARNING: {warning}" for warning in one.warnings]
        lines += [one.snippet.rstrip()]
    return "\n".join(lines) + "\n"


def as_json(plan: Plan, advice: Sequence[Advice]) -> str:
    """Return `plan` and `advice` for a program."""
    document = {"plan": {**asdict(plan), "wait": plan.wait}, "platforms": list(map(asdict, advice))}
    return json.dumps(document, indent=2) + "\n"


def _command(plan: Plan, *, host: str, port: str, grace: float, prestop: float) -> list[str]:
    words = ["stormproof", "serve", plan.target, "--host", host, "--port", port]
    words += ["--grace", f"{grace:g}", "--prestop", f"{prestop:g}"]
    words += ["--workers", str(plan.workers)] if plan.workers > 1 else []
    words += ["--ssl-certfile", plan.certfile] if plan.certfile else []
    return words + (["--ssl-keyfile", plan.keyfile] if plan.keyfile else [])


def _in_container(plan: Plan) -> list[str]:
    return _command(
        plan, host="0.0.0.0", port=str(plan.port), grace=plan.grace, prestop=plan.prestop
    )


def _loopback_warning(plan: Plan) -> tuple[str, ...]:
    if plan.host not in _LOOPBACK:
        return ()
    return (
        f"--host {plan.host} cannot be reached from outside the container; "
        "the command below says 0.0.0.0",
    )


def _lame_duck_warning(plan: Plan, who: str) -> tuple[str, ...]:
    if plan.prestop >= _LEAST_LAME_DUCK:
        return ()
    return (
        f"--prestop {plan.prestop:g} is short: {who} may still send new connections for some "
        f"seconds after SIGTERM, which are refused then; give {_LEAST_LAME_DUCK:g} or more",
    )


def _kubernetes(plan: Plan) -> Advice:
    where = f"port: {plan.port}" + (", scheme: HTTPS" if plan.certfile else "")
    snippet = f"""\
# No preStop hook: the lame duck is inside the service (--prestop).
spec:
  terminationGracePeriodSeconds: {plan.wait}  # default 30
  containers:
    - name: app
      command: {json.dumps(_in_container(plan))}
      ports: [{{ containerPort: {plan.port} }}]
      startupProbe:
        httpGet: {{ path: /startupz, {where} }}
        periodSeconds: 1
        failureThreshold: 60
      readinessProbe:
        httpGet: {{ path: /readyz, {where} }}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      livenessProbe:
        httpGet: {{ path: /livez, {where} }}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
"""
    warnings = _loopback_warning(plan) + _lame_duck_warning(plan, "kube-proxy and load balancers")
    if plan.wait > 30:
        warnings += (
            f"the default terminationGracePeriodSeconds (30) is too short for --grace "
            f"{plan.grace:g}: set it to {plan.wait}",
        )
    return Advice("Kubernetes", 'kubernetes.io, "Pod Lifecycle"', snippet, warnings)


def _systemd(plan: Plan) -> Advice:
    command = _command(
        plan, host=plan.host, port=str(plan.port), grace=plan.grace, prestop=plan.prestop
    )
    name = plan.target.partition(":")[0].split(".")[-1]
    address = f"[{plan.host}]" if ":" in plan.host else plan.host
    snippet = f"""\
# /etc/systemd/system/{name}.service
[Unit]
Requires={name}.socket
After=network.target {name}.socket

[Service]
Type=exec
ExecStart=/srv/{name}/.venv/bin/{" ".join(command)}
ExecReload=/bin/kill -HUP $MAINPID
KillSignal=SIGTERM
# SIGTERM to the parent alone: it drains its workers.
KillMode=mixed
TimeoutStopSec={plan.wait}
Restart=on-failure

[Install]
WantedBy=multi-user.target

# /etc/systemd/system/{name}.socket: it stays open while the service restarts (LISTEN_FDS).
[Socket]
ListenStream={address}:{plan.port}
Accept=no
Backlog=2048

[Install]
WantedBy=sockets.target
"""
    warnings: tuple[str, ...] = ()
    if plan.wait > 90:
        warnings = (
            f"the default TimeoutStopSec (90) is too short for --grace {plan.grace:g}: "
            f"set it to {plan.wait}",
        )
    return Advice(
        "systemd", "systemd.service(5), systemd.kill(5), sd_listen_fds(3)", snippet, warnings
    )


def _docker(plan: Plan) -> Advice:
    snippet = f"""\
# Dockerfile: the exec form, because a shell would keep the signal to itself.
STOPSIGNAL SIGTERM
CMD {json.dumps(_in_container(plan))}

# compose.yaml
services:
  app:
    stop_signal: SIGTERM
    stop_grace_period: {plan.wait}s  # default 10s

# by hand
docker stop --timeout {plan.wait} app
"""
    warnings = _loopback_warning(plan)
    if plan.wait > 10:
        warnings += (
            f"docker stop kills after 10 s by default, and the grace is {plan.grace:g} s: "
            f"give it {plan.wait}",
        )
    source = 'docs.docker.com, "docker container stop" and "Compose file: services"'
    return Advice("Docker", source, snippet, warnings)


def _cloud_run(plan: Plan) -> Advice:
    limit = _CLOUD_RUN_LIMIT
    grace = min(plan.grace, limit - OVERTIME - 0.5)
    prestop = min(plan.prestop, 1.0)
    bare = replace(plan, certfile=None, keyfile=None)
    command = _command(bare, host="0.0.0.0", port="8080", grace=grace, prestop=prestop)
    arguments = ",".join(command[1:])
    snippet = f"""\
# SIGKILL comes {limit:g} s after SIGTERM, and cannot be moved. An instance gets SIGTERM
# when no request is routed to it any more, so a short lame duck is enough.
gcloud run deploy app --port 8080 --command stormproof --args={arguments}
"""
    warnings = _loopback_warning(plan)
    if plan.grace + OVERTIME >= limit:
        warnings += (
            f"--grace {plan.grace:g} does not fit: SIGKILL comes after {limit:g} s; "
            f"the command below says {grace:g}",
        )
    if plan.certfile:
        warnings += ("Cloud Run ends TLS itself; the command below serves plain HTTP",)
    source = 'cloud.google.com/run/docs, "Container runtime contract"'
    return Advice("Cloud Run", source, snippet, warnings)


def _ecs(plan: Plan) -> Advice:
    stop = min(plan.wait, int(_ECS_FARGATE_LIMIT))
    definition = {
        "name": "app",
        "command": _in_container(plan),
        "portMappings": [{"containerPort": plan.port}],
        "stopTimeout": stop,
    }
    snippet = f"""\
# In the task definition. The default stopTimeout is 30, the most on Fargate 120.
{json.dumps(definition, indent=2)}
# The target group: health check path /readyz. Its deregistration delay (300 s by default) passes
# before SIGTERM; it needs to be no longer than the longest request or stream.
"""
    warnings = _loopback_warning(plan)
    if plan.wait > _ECS_FARGATE_LIMIT:
        warnings += (
            f"--grace {plan.grace:g} does not fit Fargate, which kills after "
            f"{_ECS_FARGATE_LIMIT:g} s at the latest; give {_ECS_FARGATE_LIMIT - 5:g} or less",
        )
    elif plan.wait > _ECS_DEFAULT:
        warnings += (
            f"the default stopTimeout (30) is too short for --grace {plan.grace:g}: "
            f"set it to {stop}",
        )
    source = 'docs.aws.amazon.com/AmazonECS, "Task definition parameters": stopTimeout'
    return Advice("ECS", source, snippet, warnings)
