import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from stormproof.upstream import Upstream
from stormproof.upstream._aiohttp import AiohttpTransport

from .servers import Peer, peer

ON_BOTH_LOOPS = frozenset(
    ("test_all_together", "test_dying", "test_network", "test_stream", "test_upstream")
)
"""The modules whose promises are about sockets; the others are of one loop or of virtual time."""

# libuv keeps a pipe for the life of the process once a loop was made; it is no test's leak.
uvloop.new_event_loop().close()


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    if item.path.stem not in ON_BOTH_LOOPS:
        del factories["uvloop"]
    return factories


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
