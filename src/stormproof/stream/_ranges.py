"""Byte ranges of HTTP (RFC 9110, section 14): what a client asks for when it resumes."""

import re
from dataclasses import dataclass

_RANGE = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """One range as it was asked for, of a body whose size need not be known yet.

    Attributes:
        first: The first byte; None for the last `last` bytes.
        last: The last byte, inclusive; None for all that follow.
    """

    first: int | None
    last: int | None

    def within(self, size: int) -> range | None:
        """Return the positions of a body of `size` bytes, or None when there are none (416)."""
        if self.first is None:
            positions = range(max(0, size - (self.last or 0)), size)
        else:
            end = size if self.last is None else min(size, self.last + 1)
            positions = range(self.first, end)
        return positions or None


def asked_range(field: str | None) -> ByteRange | None:
    """Return the range of a `Range` header; None for what is to be ignored.

    That is no header, another unit, several ranges (a server may ignore them, and so answers
    with the whole), and what is no range.
    """
    found = _RANGE.fullmatch(field or "")
    if found is None or found.groups() == ("", ""):
        return None
    first, last = (int(digits) if digits else None for digits in found.groups())
    if first is not None and last is not None and last < first:
        return None
    return ByteRange(first, last)
