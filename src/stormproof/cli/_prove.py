"""The command `prove`: attack an app, and say what was lost, leaked or blocked."""

import argparse
import asyncio
import importlib
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from stormproof.errors import InvalidSetting, MissingExtra, StormproofError

from ._prove_options import add_prove_options, prove_options
from ._prove_progress import OnProgress, displayed_progress

if TYPE_CHECKING:
    from stormproof.prove import ProveOptions, Report

_EXIT_COULD_NOT_RUN = 3
_WIDTH_OF_A_LOG = 100


def add_prove(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `prove`."""
    prove = commands.add_parser(
        "prove",
        help="attack an app and report what was lost, leaked or blocked",
        description="Start an app, unchanged, as a real server on loopback, attack it, and "
        "report what was lost, leaked or blocked. Exit code: 0 when no MUST failed, 1 when one "
        "did, 2 for wrong use, 3 when the app could not be run or answered nothing 2xx.",
    )
    add_prove_options(prove)
    prove.set_defaults(run=_run_prove)


def _run_prove(arguments: argparse.Namespace) -> int:
    _require_extra()
    try:
        return _list(arguments) if arguments.list else _prove(arguments)
    except KeyboardInterrupt:
        return _stopped(signal.SIGINT)
    except StormproofError:
        raise
    except Exception:
        # Exit code 1 would say that the app failed.
        traceback.print_exc()
        print("stormproof: prove itself broke down; nothing is said of the app", file=sys.stderr)
        return _EXIT_COULD_NOT_RUN


def _prove(arguments: argparse.Namespace) -> int:
    from stormproof.prove.report import exit_code

    _check_outputs(arguments)
    report = _audited(arguments) if arguments.audit else _attacked(prove_options(arguments))
    if isinstance(report, signal.Signals):
        return _stopped(report)
    _write(report, arguments)
    return exit_code(report)


def _audited(arguments: argparse.Namespace) -> "Report":
    from stormproof.prove import AUDITS, judge, load_recording

    if arguments.app or arguments.command:
        raise InvalidSetting("--audit reads what was recorded; name no app and no --command")
    known = {audit.id for audit in AUDITS}
    if unknown := sorted({*arguments.only, *arguments.skip} - known):
        raise InvalidSetting(f"there is no audit {unknown[0]!r}; --list shows all")
    return judge(load_recording(arguments.audit), only=arguments.only, skip=arguments.skip)


def _attacked(options: "ProveOptions") -> "Report | signal.Signals":
    with displayed_progress(sys.stderr) as on_progress:
        return asyncio.run(_until_stopped(options, on_progress))


async def _until_stopped(
    options: "ProveOptions", on_progress: OnProgress
) -> "Report | signal.Signals":
    """Return the report, or the signal that ended the run; the app's processes are gone then.

    The first signal cancels the run. Further ones do nothing: ending the app is short and
    bounded, and who breaks it off leaves a server behind.
    """
    from stormproof.prove import prove

    stopped: list[signal.Signals] = []
    run = asyncio.ensure_future(prove(options, on_progress=on_progress))

    def stop(number: signal.Signals) -> None:
        if not stopped:
            run.cancel()
        stopped.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await run
    except asyncio.CancelledError:
        if not stopped:
            raise
        return stopped[0]


def _stopped(number: signal.Signals) -> int:
    # An impatient third Ctrl-C would end the interpreter on its way out, with another exit code.
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    print(f"stormproof: stopped by {number.name}; nothing is left running", file=sys.stderr)
    return 128 + number


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Raise InvalidSetting now for what could not be written in two minutes."""
    from stormproof.prove.report import check_writable

    on_stdout = [arguments.json == "-", arguments.markdown == "-", arguments.format == "json"]
    if sum(on_stdout) > 1:
        raise InvalidSetting("only one of --json -, --markdown - and --format json can be printed")
    for name in ("html", "json", "junit", "markdown", "save_recording"):
        path = getattr(arguments, name)
        if path is not None and path != "-":
            check_writable(Path(path))


def _write(report: "Report", arguments: argparse.Namespace) -> None:
    """Save the recording, write the files, print what is to be printed, whatever became of them."""
    from stormproof.prove.report import as_json, as_markdown

    try:
        _write_files(report, arguments)
    finally:
        if arguments.json == "-" or arguments.format == "json":
            _print(as_json(report))
        elif arguments.markdown == "-":
            _print(as_markdown(report))
        else:
            _print(_text(report))


def _write_files(report: "Report", arguments: argparse.Namespace) -> None:
    from stormproof.prove import save_recording
    from stormproof.prove.report import as_html, as_json, as_junit, as_markdown, write_whole

    if arguments.save_recording:
        save_recording(report.recording, Path(arguments.save_recording))
    formats = (
        (arguments.html, as_html),
        (arguments.json, as_json),
        (arguments.junit, as_junit),
        (arguments.markdown, as_markdown),
    )
    for path, rendered in formats:
        if path is not None and path != "-":
            write_whole(Path(path), rendered(report))
            print(f"stormproof: wrote {path}", file=sys.stderr)


def _print(text: str) -> None:
    """Print `text`; a reader that leaves early (`| head`) is no fault and no verdict."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        # Otherwise the interpreter tries again at its end, and complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _text(report: "Report") -> str:
    from stormproof.prove.report import as_text

    is_terminal = sys.stdout.isatty()
    is_plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    width = shutil.get_terminal_size().columns if is_terminal else _WIDTH_OF_A_LOG
    return as_text(report, width=min(width, 120), is_coloured=is_terminal and not is_plain)


def _list(arguments: argparse.Namespace) -> int:
    from stormproof.prove import AUDITS

    if arguments.format == "json":
        rows = [{"id": audit.id, "must": audit.is_must, "title": audit.passing} for audit in AUDITS]
        _print(json.dumps(rows, indent=2) + "\n")
        return 0
    wide = max((len(audit.id) for audit in AUDITS), default=0)
    lines = [
        f"{audit.id:<{wide}}  {'MUST' if audit.is_must else 'SHOULD':<6}  {audit.passing}\n"
        for audit in AUDITS
    ]
    _print("".join(lines))
    return 0


def _require_extra() -> None:
    for name in ("jinja2", "psutil", "rich"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as exc:
            raise MissingExtra(
                f"stormproof prove needs {name!r}; install it with pip install 'stormproof[prove]'"
            ) from exc
