"""Parse the command line and call what does the work."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from stormproof.errors import InvalidSetting, StormproofError

from ._prove import add_prove
from ._serve import add_listener, add_reload, add_serve
from ._worker import add_worker

EXIT_WRONG_USE = 2
EXIT_COULD_NOT_RUN = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; a known error is one sentence on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except StormproofError as error:
        print(f"stormproof: {error}", file=sys.stderr)
        return EXIT_WRONG_USE if isinstance(error, InvalidSetting) else EXIT_COULD_NOT_RUN
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stormproof",
        description="FastAPI services that lose nothing under load, faults and deploys.",
    )
    parser.add_argument("--version", action="version", version=version("stormproof"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_serve(commands)
    add_reload(commands)
    add_worker(commands)
    add_prove(commands)
    _add_demo(commands)
    return parser


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    demo = commands.add_parser(
        "demo",
        help="serve the reference service with everything it needs",
        description="Serve the reference service on SQLite, with a mail sink and three "
        "upstreams on loopback; takes a free port when the port is in use.",
    )
    add_listener(demo, "127.0.0.1")
    demo.set_defaults(run=_run_demo)


def _run_demo(arguments: argparse.Namespace) -> int:
    from stormproof.demo import run_demo

    return run_demo(
        host=arguments.host,
        port=arguments.port,
        grace=arguments.grace,
        prestop=arguments.prestop,
    )
