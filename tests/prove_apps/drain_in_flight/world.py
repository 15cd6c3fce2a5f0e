"""A slow neighbour on loopback that both twins ask."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from tests.harness import free_port


async def _price(_: web.Request) -> web.Response:
    await asyncio.sleep(0.4)
    return web.json_response({"price": 3})


@asynccontextmanager
async def world() -> AsyncIterator[dict[str, str]]:
    """Serve prices, each after 0.4 s."""
    neighbour = web.Application()
    neighbour.router.add_get("/price", _price)
    runner = web.AppRunner(neighbour)
    await runner.setup()
    port = free_port()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield {"PRICES_URL": f"http://127.0.0.1:{port}"}
    finally:
        await runner.cleanup()
