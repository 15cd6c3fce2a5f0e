"""The options of the server itself: read limits, TLS, admin listener, log, and `--explain`."""

import argparse
from typing import Any

_SAME_NAME = (
    "header_timeout",
    "body_timeout",
    "ssl_certfile",
    "ssl_keyfile",
    "admin",
    "admin_jobs",
    "log_format",
)


def add_server_options(serve: argparse.ArgumentParser) -> None:
    """Add them to `serve`."""
    for name, what in (
        ("header", "seconds a client may take to send a request's head; default 10"),
        ("body", "seconds a client may pause within a request's body; default 15"),
    ):
        serve.add_argument(f"--{name}-timeout", type=float, metavar="SECONDS", help=what)
    serve.add_argument("--ssl-certfile", metavar="PATH", help="serve TLS with this certificate")
    serve.add_argument("--ssl-keyfile", metavar="PATH", help="its key, when not in the same file")
    serve.add_argument(
        "--http2",
        choices=["experimental"],
        help="speak HTTP/2, too, by a parser that is an experiment; without the read limits",
    )
    serve.add_argument(
        "--admin",
        metavar="[HOST:]PORT",
        help="answer /livez, /readyz, /metrics, /drain, /jobs here, from a thread; host: 127.0.0.1",
    )
    serve.add_argument(
        "--admin-jobs",
        choices=["look", "change"],
        help="whether who reaches it may also retry and cancel durable jobs; default: look",
    )
    serve.add_argument(
        "--log-format", choices=["text", "json"], help="how a line of the log looks; default text"
    )
    serve.add_argument(
        "--reload",
        action="store_true",
        help="for development: serve new code when a Python file here changes; prestop: 0",
    )
    serve.add_argument(
        "--explain",
        action="store_true",
        help="do not serve: print what Kubernetes, systemd, Docker and others must be told",
    )
    serve.add_argument(
        "--format", choices=["text", "json"], default="text", help="of --explain; default text"
    )


def server_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return those that were given, as `ServeOptions` names them."""
    given = {name: getattr(arguments, name) for name in _SAME_NAME}
    options = {name: value for name, value in given.items() if value is not None}
    return options | ({"is_http2": True} if arguments.http2 else {})
