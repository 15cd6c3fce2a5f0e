"""The command that runs an app's jobs without serving it: `worker`."""

import argparse


def add_worker(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `worker`."""
    worker = commands.add_parser(
        "worker",
        help="run an app's jobs, without serving it",
        description="Run the jobs of an app that has Jobs; at SIGTERM let them end or give them "
        "back, then exit: 0, or 3 when the app did not start or acknowledged work was cut.",
    )
    worker.add_argument(
        "app",
        nargs="?",
        metavar="module:app",
        help="the application; default: entrypoint of [tool.fastapi] in pyproject.toml",
    )
    worker.add_argument(
        "--concurrency", type=int, default=10, metavar="N", help="jobs at once; default 10"
    )
    worker.add_argument(
        "--grace",
        type=float,
        metavar="SECONDS",
        help="seconds from SIGTERM to the end of everything; default 30",
    )
    worker.set_defaults(run=_run_worker)


def _run_worker(arguments: argparse.Namespace) -> int:
    from stormproof.serve import load_app, work

    app = load_app(arguments.app)
    return work(app, concurrency=arguments.concurrency, grace=arguments.grace)
