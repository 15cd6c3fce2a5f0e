"""Whether entries follow a place in a log without a gap, so that a gap is never silent."""

from collections.abc import Sequence
from dataclasses import dataclass

from ._bus import Entry, HistoryLost

LEAP = 1_000_000_000
"""How far offsets leap when another server process goes on with a log.

It may have been restored, or promoted, without the newest entries: a reader who has seen those is
then at an offset that this log never gave. More entries than this are not lost at once.
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry as a store keeps it.

    Attributes:
        entry: The entry, with its offset.
        follows: The offset before it; None for the next smaller one.
    """

    entry: Entry
    follows: int | None = None


def following(after: int, stored: Sequence[Stored]) -> list[Entry]:
    """Return the entries up to the first gap.

    Raises:
        HistoryLost: The first of them does not follow `after`.
    """
    entries: list[Entry] = []
    for each in stored:
        offset = each.entry.offset
        before = offset - 1 if each.follows is None else each.follows
        if before != after:
            if entries:
                break
            raise HistoryLost(f"after {after} comes {offset}, which follows {before}")
        entries.append(each.entry)
        after = offset
    return entries
