"""The ring answers only for offsets that it knows."""

import pytest

from stormproof.stream import Entry, Published
from stormproof.stream._follow import LEAP
from stormproof.stream._ring import Ring


@pytest.mark.parametrize(
    ("offset", "known"),
    [
        (6, None),  # too old
        (7, [8, 9, LEAP + 9]),
        (9, [LEAP + 9]),
        (10, None),  # a client may have seen it before the store was restored without it
        (LEAP + 9, []),
        (LEAP + 10, None),
    ],
)
def test_ring_leaves_offsets_it_does_not_know_to_the_bus(
    offset: int, known: list[int] | None
) -> None:
    ring = Ring(10, 7)
    for each in (8, 9, LEAP + 9):
        ring.append(Published(Entry("t", "", offset=each), "e"))
    found = ring.after(offset, 5)
    assert known == (None if found is None else [event.offset for event in found])
