from collections.abc import AsyncIterator

import pytest

from stormproof.upstream import Upstream
from stormproof.upstream._aiohttp import AiohttpTransport

from .servers import Peer, peer


@pytest.fixture
async def server() -> AsyncIterator[Peer]:
    async with peer() as running:
        yield running


@pytest.fixture(params=["httpx2", "aiohttp"])
async def upstream(server: Peer, request: pytest.FixtureRequest) -> AsyncIterator[Upstream]:
    """An upstream that is open, by each way to the wire."""
    transport = AiohttpTransport() if request.param == "aiohttp" else None
    async with Upstream(
        name="users", base_url=server.url(""), timeout=5.0, transport=transport
    ) as opened:
        yield opened
