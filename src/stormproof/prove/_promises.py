"""What became of promises: the fact that the drain's attack records and audits read."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FACT = "promises"
"""Name of the fact: a list, one `Promise` each."""

NUMBER = "{n}"
"""Stands in a scenario for a number that no other request has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One acknowledged request, looked up after the app was started again.

    Attributes:
        route: Id of its route.
        status: What acknowledged it.
        at: When it was acknowledged, in the recording's time.
        is_kept: Whether it was found.
        seen: What the last lookup said.
        unclear: Why it could not be looked up, or "".
    """

    route: str
    status: int
    at: float
    is_kept: bool = False
    seen: str = ""
    unclear: str = ""

    def as_facts(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Promise":
        """Return what `as_facts` was made from."""
        return cls(**facts)
