"""What a fan-out brought: the answers, and why the others did not come."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from stormproof.errors import StormproofError, UpstreamFailed


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a fan-out brought: answers and errors by name, in the order of the calls.

    Attributes:
        upstream: The upstream's name.
        values: The answers that came.
        errors: Why the others did not: `UpstreamFailed`, `UpstreamTimeout` for a late one, or
            the limiter's error for one that was shed.
    """

    upstream: str
    values: Mapping[str, httpx2.Response]
    errors: Mapping[str, StormproofError]

    @property
    def is_complete(self) -> bool:
        """Whether every call was answered."""
        return not self.errors

    def json(self) -> dict[str, Any]:
        """Return the parsed bodies by name; names without an answer are absent.

        Raises:
            UpstreamFailed: A body is not JSON.
        """
        parsed = {}
        for name, response in self.values.items():
            try:
                parsed[name] = response.json()
            except ValueError as exc:
                kind = response.headers.get("content-type", "no content-type")
                raise UpstreamFailed(
                    f"upstream {self.upstream!r} answered {name!r} with {len(response.content)} "
                    f"bytes ({kind}) that are not JSON; look at .values[{name!r}].text"
                ) from exc
        return parsed
