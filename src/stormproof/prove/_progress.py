"""Progress: what a run says while it goes on, for a display or a log."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One step of a run.

    Attributes:
        attack: Name of the attack, `drain`; "" for a word about the whole run.
        title: What it does: "at SIGTERM, under load".
        done: How many attacks have ended, this one included when it has.
        total: How many attacks there are.
        seconds: With `begun`: what it takes about; with `ended`: what it took; else 0.
        state: `begun`, `ended`, or `note` for a line that belongs to neither.
        text: The line of a note, or why an attack could not be run.
    """

    attack: str
    title: str
    done: int
    total: int
    seconds: float
    state: Literal["begun", "ended", "note"]
    text: str = ""
