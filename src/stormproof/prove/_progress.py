"""What a run says of itself while it goes on."""

from dataclasses import dataclass
from typing import Literal

ProgressState = Literal["begun", "ended", "note"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One step: an attack begun or ended, or a note.

    Attributes:
        attack: Its name.
        title: What it does, in words.
        done: How many attacks have ended.
        total: How many there are.
        seconds: What is left, about.
        state: Which step it is.
        text: Of a note.
    """

    attack: str
    title: str
    done: int
    total: int
    seconds: float
    state: ProgressState
    text: str = ""
