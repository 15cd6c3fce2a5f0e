"""Progress of `prove`: a live line on a terminal, plain lines in a log."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from stormproof.prove import Progress

OnProgress = Callable[["Progress"], None]


@contextmanager
def displayed_progress(stream: TextIO) -> Iterator[OnProgress]:
    """Yield what shows each step on `stream`: live on a terminal, else a line a step."""
    if not stream.isatty():
        yield lambda step: _write_line(step, stream)
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(file=stream, highlight=False)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[count]}", markup=False),
        BarColumn(bar_width=16),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        live = _Live(bar)
        yield live.show


def step_line(step: "Progress") -> str:
    """Return a step as one line of a log; "" for one that needs none."""
    from stormproof.prove.report import one_line

    text = one_line(step.text)
    if step.state == "note":
        return f"prove: {text}"
    if step.state == "ended":
        return f"prove: {step.attack} could not be run: {text}" if text else ""
    number = min(step.done + 1, step.total)
    return f"prove: {number} of {step.total}, {step.attack}: {step.title}{_left(step.seconds)}"


def _write_line(step: "Progress", stream: TextIO) -> None:
    if line := step_line(step):
        print(line, file=stream, flush=True)


def _left(seconds: float) -> str:
    return f" (about {seconds:.0f} s left)" if seconds >= 1 else ""


class _Live:
    """The live line: which attacks run, how many have ended, what is left."""

    def __init__(self, bar: "Bar") -> None:
        self._bar = bar
        self._task = bar.add_task("starting the app", total=None, count="", left="")
        self._running: dict[str, str] = {}

    def show(self, step: "Progress") -> None:
        """Take one step."""
        if step.state == "begun":
            self._running[step.attack] = step.title
        elif step.state == "ended":
            self._running.pop(step.attack, None)
        line = step_line(step)
        if line and step.state != "begun":
            self._bar.console.print(line, markup=False)
        # The newest is what matters; the patient one goes on beside it.
        names = list(self._running)[::-1]
        described = "; beside it ".join(f"{name}: {self._running[name]}" for name in names)
        self._bar.update(
            self._task,
            total=step.total,
            completed=step.done,
            description=described or "on to the next",
            count=f"{step.done}/{step.total}",
            left=f"about {step.seconds:.0f} s left" if step.seconds >= 1 else "",
        )
