"""The live page in a real browser: it loses its connection and resumes without a gap."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stormproof.prove.faults import Down, FaultProxy
from tests.harness import ServerProcess, until
from tests.harness.browser import Page, opened_page

DEMO = [sys.executable, "-m", "stormproof", "demo", "--port", "0"]
COUNTS = "Object.assign({state: document.getElementById('state').dataset.state}, count)"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
PICTURES = os.environ.get("STORMPROOF_TEST_PICTURES")
"""A folder for screenshots, for who wants to look."""


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with opened_page() as page:
        yield page


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    async with ServerProcess(DEMO, env={"STORMPROOF_PRESTOP": "0"}) as process:
        line = await process.wait_for_line(r"serving on http://127\.0\.0\.1:(\d+)", timeout=60.0)
        async with FaultProxy.before("demo", "127.0.0.1", int(line[1])) as proxy:
            yield proxy


async def counted(page: Page, condition: str) -> dict[str, object]:
    """Wait until `condition` holds for the page's numbers, and return them."""
    told: dict[str, object] = {}

    async def is_true() -> bool:
        told.update(await page.evaluate(COUNTS))
        return bool(eval(condition, {}, dict(told)))

    await until(is_true, timeout=60.0, what=f"{condition} on the page")
    return told


async def test_page_shows_events_and_resumes_without_a_gap(page: Page, proxy: FaultProxy) -> None:
    await page.look(width=400, is_dark=True)
    await page.open(f"http://127.0.0.1:{proxy.port}/live")
    await counted(page, "events >= 1 and state == 'live'")
    await page.evaluate("document.getElementById('lose').click()")
    await page.evaluate("document.getElementById('store').click()")
    told = await counted(page, "resumed == 1 and state == 'live'")
    assert (told["missed"], told["twice"]) == (0, 0)
    assert "umbrella" in await page.evaluate("document.getElementById('log').textContent")
    for width in (400, 1400):
        await page.look(width=width, is_dark=width == 400)
        assert await page.evaluate(OVERFLOW) <= 0
        if PICTURES:
            Path(PICTURES, f"live-{width}.png").write_bytes(await page.screenshot())
    assert page.complaints == []


@pytest.mark.storm
async def test_page_survives_cut_connections_and_gets_all_that_came_meanwhile(
    page: Page, proxy: FaultProxy
) -> None:
    await page.open(f"http://127.0.0.1:{proxy.port}/live")
    for turn in range(1, 4):
        before = await counted(page, "events >= 3 and state == 'live'")
        proxy.set(Down())
        await counted(page, "state == 'lost'")
        await asyncio.sleep(1.2)  # two events that the page cannot get now
        proxy.clear()
        told = await counted(page, f"resumed == {turn} and state == 'live'")
        assert (told["missed"], told["twice"]) == (0, 0)
        assert int(str(told["events"])) >= int(str(before["events"])) + 2
