"""The options of `prove`: what is attacked, how, and where the report goes."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stormproof.prove import ProveOptions

_PROFILES = ("k8s", "cloud-run", "docker", "ecs")
_SERVERS = ("uvicorn", "serve", "hypercorn", "granian", "gunicorn")


def add_prove_options(prove: argparse.ArgumentParser) -> None:
    """Add them to `prove`."""
    _add_app(prove.add_argument_group("what is attacked"))
    _add_attacks(prove.add_argument_group("how"))
    _add_outputs(prove.add_argument_group("what comes out"))


def prove_options(arguments: argparse.Namespace) -> "ProveOptions":
    """Return what was given, as the room names it.

    Raises:
        AppNotFound: No app is named, here or in pyproject.toml.
    """
    from stormproof.prove import PROFILES, ProveOptions
    from stormproof.serve import named_target

    app = arguments.app or ""
    if not arguments.command:
        app = named_target(app or None)
    return ProveOptions(
        app=app,
        server="command" if arguments.command else arguments.server,
        command=arguments.command,
        profile=PROFILES[arguments.profile],
        deadline=arguments.deadline,
        is_quick=arguments.quick,
        with_writes=arguments.writes,
        only=tuple(arguments.only),
        skip=tuple(arguments.skip),
        runs=arguments.runs,
        scenario=arguments.scenario,
        dependencies=dict(arguments.dependency),
        live=arguments.live,
        ready=arguments.ready,
        start_limit=arguments.start_limit,
        allow_remote=tuple(arguments.allow_remote),
        environment=dict(arguments.env),
    )


def _add_app(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "app",
        nargs="?",
        type=_app,
        metavar="module:app",
        help="the application; default: entrypoint of [tool.fastapi] in pyproject.toml",
    )
    group.add_argument(
        "--server", choices=_SERVERS, default="uvicorn", help="what serves it; default uvicorn"
    )
    group.add_argument(
        "--command",
        default="",
        metavar="COMMAND",
        help="start this instead, with {port} in it; only what can be seen from outside is judged",
    )
    group.add_argument(
        "--env",
        action="append",
        type=_pair,
        default=[],
        metavar="NAME=VALUE",
        help="add to the app's environment; may be repeated",
    )
    group.add_argument(
        "--dependency",
        action="append",
        type=_pair,
        default=[],
        metavar="NAME=URL",
        help="something on loopback that the app needs, beside what its environment names",
    )
    group.add_argument(
        "--allow-remote",
        action="append",
        default=[],
        metavar="NAME",
        help="a dependency that may lie beyond this machine; it is left alone",
    )
    group.add_argument("--live", metavar="PATH", help="liveness probe; default: found by its name")
    group.add_argument("--ready", metavar="PATH", help="readiness probe; default: found likewise")
    group.add_argument(
        "--start-limit",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="what the app may take until it answers; default 30",
    )


def _add_attacks(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--quick", action="store_true", help="shorter attacks, one round each")
    for name, what in (("only", "make this audit alone"), ("skip", "leave this audit out")):
        group.add_argument(
            f"--{name}",
            action=_Ids,
            default=[],
            metavar="ID",
            help=f"{what}; may be repeated, or several with commas",
        )
    group.add_argument("--list", action="store_true", help="list the audits and do nothing")
    group.add_argument(
        "--profile",
        choices=_PROFILES,
        default="k8s",
        help="the platform whose grace and lame duck count; default k8s",
    )
    group.add_argument(
        "--deadline",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="within which each request must end when a dependency is silent; default 10",
    )
    group.add_argument(
        "--scenario", type=Path, metavar="FILE", help="TOML with the requests to send"
    )
    group.add_argument(
        "--writes", action="store_true", help="use POST, PUT, PATCH and DELETE from OpenAPI, too"
    )
    group.add_argument(
        "--runs",
        type=_count,
        default=3,
        metavar="N",
        help="how often what failed by the clock is tried at most; default 3",
    )
    group.add_argument(
        "--audit", type=Path, metavar="FILE", help="attack nothing: audit a saved recording again"
    )


def _add_outputs(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--save-recording", metavar="FILE", help="JSON; gzip if it ends in .gz")
    group.add_argument("--html", metavar="FILE", help="one page with plots, for a browser")
    group.add_argument("--json", metavar="FILE", help="for programs; - prints it")
    group.add_argument("--junit", metavar="FILE", help="JUnit XML, for CI systems")
    group.add_argument("--markdown", metavar="FILE", help="a short comment; - prints it")
    group.add_argument(
        "--format", choices=["text", "json"], default="text", help="what is printed; default text"
    )


class _Ids(argparse.Action):
    """Several ids: the option repeated, or one with commas."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        ids = [id.strip() for id in str(values).split(",") if id.strip()]
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), *ids])


def _app(text: str) -> str:
    module, colon, attribute = text.partition(":")
    names = [*module.split("."), *attribute.split(".")]
    if not colon or not all(name.isidentifier() for name in names):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form module:app, as main:app is")
    return text


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)
