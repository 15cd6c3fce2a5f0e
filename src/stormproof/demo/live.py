"""The live page: events that a browser shows, whose connection is lost, and that resume."""

import asyncio
import os
import secrets
import time
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response

import stormproof
from stormproof.demo.items import ItemOut

TOPICS = ("ticks", "items")
TICK_SECONDS = 0.5
AWAY_SECONDS = 60.0
"""How long the counting goes on for a browser that has lost its connection."""


def hub_from_environment() -> stormproof.Hub:
    """Return the hub: on `REDIS_URL`, so that events outlive the process, or in its memory."""
    url = os.environ.get("REDIS_URL")
    return stormproof.Hub() if url is None else stormproof.Hub(stormproof.RedisBus(url))


def live_routes(hub: stormproof.Hub) -> APIRouter:
    """Return the page and its stream; neither is part of the API that is described."""
    routes = APIRouter(include_in_schema=False)
    page = Path(__file__).with_name("live.html").read_text(encoding="utf-8")
    policy = (
        "default-src 'none'; img-src data:; connect-src 'self'; "
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )

    @routes.get("/live")
    async def live() -> Response:
        return HTMLResponse(page, headers={"content-security-policy": policy})

    @routes.get("/live/events")
    async def live_events() -> Response:
        return hub.response(TOPICS)

    return routes


async def tick(hub: stormproof.Hub) -> None:
    """Count while somebody looks, or has looked a short while ago; for ever."""
    process, number, seen_at = secrets.token_hex(2), 0, -AWAY_SECONDS
    while True:
        await asyncio.sleep(TICK_SECONDS)
        if hub.statistics().subscribers:
            seen_at = time.monotonic()
        if time.monotonic() - seen_at < AWAY_SECONDS:
            number += 1
            await hub.publish("ticks", {"process": process, "n": number}, event="tick")


async def tell_of_item(hub: stormproof.Hub, item: ItemOut) -> None:
    """Publish a stored item."""
    await hub.publish("items", item.model_dump(), event="item")
