"""An HTTP upstream that takes 0.2 s."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.prove_apps.worlds import upstream


@asynccontextmanager
async def world() -> AsyncIterator[dict[str, str]]:
    """Serve the upstream as long as the block lasts."""
    async with upstream(seconds=0.2) as environment:
        yield environment
