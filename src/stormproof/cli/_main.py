"""Parse the command line and call what does the work."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from stormproof.errors import InvalidSetting, StormproofError

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
    _add_serve(commands)
    _add_demo(commands)
    return parser


def _add_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    serve = commands.add_parser(
        "serve",
        help="serve an app; at SIGTERM drain, then exit",
        description="Serve an app with uvicorn inside; at SIGTERM drain, then exit: 0 when "
        "nothing was lost, 3 when the app did not start or acknowledged work was cut.",
    )
    serve.add_argument(
        "app",
        nargs="?",
        metavar="module:app",
        help="the application; default: entrypoint of [tool.fastapi] in pyproject.toml",
    )
    _add_listener(serve, "127.0.0.1")
    serve.add_argument("--access-log", action="store_true", help="log a line for each request")
    serve.set_defaults(run=_run_serve)


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    demo = commands.add_parser(
        "demo",
        help="serve the reference service with everything it needs",
        description="Serve the reference service on SQLite, with a mail sink and three "
        "upstreams on loopback; takes a free port when the port is in use.",
    )
    _add_listener(demo, "127.0.0.1")
    demo.set_defaults(run=_run_demo)


def _add_listener(command: argparse.ArgumentParser, host: str) -> None:
    command.add_argument("--host", default=host, help=f"address to listen on; default {host}")
    command.add_argument("--port", type=_port, default=8000, help="default 8000; 0: a free one")
    for name, what in (
        ("grace", "seconds from SIGTERM to the end of everything; default 30"),
        ("prestop", "seconds of lame duck at its beginning; default 5"),
    ):
        command.add_argument(f"--{name}", type=float, metavar="SECONDS", help=what)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a number from 0 to 65535")
    return int(text)


def _run_serve(arguments: argparse.Namespace) -> int:
    from stormproof.serve import ServeOptions, load_app, serve

    options = ServeOptions(
        host=arguments.host,
        port=arguments.port,
        grace=arguments.grace,
        prestop=arguments.prestop,
        is_access_logged=arguments.access_log,
    )
    return serve(load_app(arguments.app), options)


def _run_demo(arguments: argparse.Namespace) -> int:
    from stormproof.demo import run_demo

    return run_demo(
        host=arguments.host,
        port=arguments.port,
        grace=arguments.grace,
        prestop=arguments.prestop,
    )
