"""The outcome of an attempt: an answer, or the error that it ended in."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """One of the two.

    Attributes:
        response: The answer, or None.
        error: What was raised instead, or None.
    """

    response: Any = None
    error: Exception | None = None

    @property
    def is_good(self) -> bool:
        """Whether the upstream answered, and not that it cannot: below 500, and not 429."""
        if self.error is not None:
            return False
        return bool(self.response.status_code < 500 and self.response.status_code != 429)

    def unwrapped(self) -> Any:
        """Return the answer, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.response
