"""The page in a real browser: read on a phone and a desk, by keyboard, without a network."""

import json
from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path

import pytest

from stormproof.prove._audit import Report
from stormproof.prove.report import as_html
from tests.harness import until
from tests.harness.browser import Page, opened_page

from .samples import big_report, failing_report, hostile_report, passing_report, silent_report

REPORTS = {
    "failing": failing_report,
    "passing": passing_report,
    "hostile": hostile_report,
    "silent": silent_report,
    "big": big_report,
}
WIDTHS = (400, 1400)
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
OPEN_ALL = "document.querySelectorAll('details').forEach(each => each.open = true)"


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with opened_page() as page:
        yield page


async def show(page: Page, report: Callable[[], Report], folder: Path) -> None:
    path = folder / "report.html"
    path.write_text(rendered(report), encoding="utf-8")
    await page.open(path)


@cache
def rendered(report: Callable[[], Report]) -> str:
    return as_html(report())


@pytest.mark.parametrize("width", WIDTHS)
async def test_page_fits_complains_of_nothing_and_asks_for_nothing(
    page: Page, tmp_path: Path, width: int
) -> None:
    for number, (name, report) in enumerate(REPORTS.items()):
        await page.look(width=width, is_dark=number % 2 == 1)
        page.requested.clear()
        await show(page, report, tmp_path)
        await page.evaluate(OPEN_ALL)
        assert await page.evaluate(OVERFLOW) <= 0, f"{name} is wider than {width} px"
        assert page.requested == [(tmp_path / "report.html").as_uri()]
        assert page.complaints == []


async def test_page_is_dark_where_a_person_prefers_that(page: Page, tmp_path: Path) -> None:
    back = "getComputedStyle(document.body).backgroundColor"
    await show(page, passing_report, tmp_path)
    await page.look(width=1400, is_dark=False)
    light = await page.evaluate(back)
    await page.look(width=1400, is_dark=True)
    assert await page.evaluate(back) != light


@pytest.mark.parametrize("width", WIDTHS)
async def test_every_audit_opens_and_closes_by_keyboard(
    page: Page, tmp_path: Path, width: int
) -> None:
    await page.look(width=width)
    await show(page, failing_report, tmp_path)
    was_open = await states(page)
    assert len(was_open) == len(failing_report().findings)
    seen: set[str] = set()
    for _ in range(400):
        await page.press("Tab")
        name = await page.evaluate(
            "document.activeElement.matches('details.audit > summary') "
            "? document.activeElement.parentElement.id : ''"
        )
        if name and name not in seen:
            seen.add(name)
            await page.press("Enter")
            assert (await states(page))[name] is not was_open[name]
        if seen == set(was_open):
            break
    assert seen == set(was_open)


async def states(page: Page) -> dict[str, bool]:
    found = await page.evaluate(
        "JSON.stringify(Object.fromEntries([...document.querySelectorAll('details.audit')]"
        ".map(each => [each.id, each.open])))"
    )
    return dict(json.loads(found))


async def test_focus_can_be_seen(page: Page, tmp_path: Path) -> None:
    await page.look(width=1400)
    await show(page, failing_report, tmp_path)
    for _ in range(12):
        await page.press("Tab")
        outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", await page.evaluate("document.activeElement.outerHTML")


async def test_link_to_an_audit_opens_it(page: Page, tmp_path: Path) -> None:
    await show(page, failing_report, tmp_path)
    is_open = "document.getElementById('pool-hold').open"
    assert not await page.evaluate(is_open)
    await page.evaluate("location.hash = 'pool-hold'")
    await page.evaluate("new Promise(resolve => setTimeout(resolve))")
    assert await page.evaluate(is_open)


async def test_command_is_copied_from_a_page_without_a_server(page: Page, tmp_path: Path) -> None:
    await show(page, failing_report, tmp_path)
    await page.evaluate("document.getElementById('drain-in-flight').open = true")
    await page.evaluate("document.querySelector('#drain-in-flight .copy').focus()")
    await page.press("Enter")
    await until(lambda: _says(page, "Copied"), 5.0, what="the button to say that it copied")


async def test_command_is_copied_where_the_clipboard_is_refused(page: Page, tmp_path: Path) -> None:
    await show(page, failing_report, tmp_path)
    await page.evaluate("navigator.clipboard.writeText = () => Promise.reject(new Error('no'))")
    await page.evaluate("addEventListener('copy', () => copied = String(getSelection()))")
    await page.evaluate("document.querySelector('#drain-in-flight .copy').focus()")
    await page.press("Enter")
    await until(lambda: _says(page, "Copied"), 5.0, what="the button to say that it copied")
    assert await page.evaluate("copied") == failing_report().findings[0].repro


async def _says(page: Page, word: str) -> bool:
    label = await page.evaluate("document.querySelector('#drain-in-flight .copy').textContent")
    return bool(label == word)


async def test_page_is_whole_without_scripts(page: Page, tmp_path: Path) -> None:
    await page.without_scripts()
    await show(page, failing_report, tmp_path)
    words = await page.evaluate("document.querySelector('main').textContent")
    for found in failing_report().findings:
        assert found.judgement.display in words
        assert found.audit.why in words
    assert await page.evaluate(
        "[...document.querySelectorAll('button')].every(each => !each.offsetParent)"
    ), "a button that does nothing is shown"


async def test_words_of_the_app_never_become_a_script_or_an_element(
    page: Page, tmp_path: Path
) -> None:
    await show(page, hostile_report, tmp_path)
    assert await page.evaluate("document.title") != "owned"
    assert await page.evaluate("document.querySelectorAll('script').length") == 1
    assert page.complaints == []


async def test_policy_of_the_page_runs_no_script_but_its_own(page: Page, tmp_path: Path) -> None:
    """Were an escape ever forgotten, the browser itself would refuse."""
    path = tmp_path / "report.html"
    text = rendered(passing_report)
    path.write_text(text.replace("<footer>", "<script>document.title='owned'</script><footer>"))
    await page.open(path)
    assert await page.evaluate("document.title") != "owned"
    assert any("Content Security Policy" in line for line in page.complaints)


@pytest.mark.parametrize("report", [failing_report, big_report])
async def test_each_plot_is_drawn_and_says_what_it_shows(
    page: Page, tmp_path: Path, report: Callable[[], Report]
) -> None:
    await page.look(width=400)
    await show(page, report, tmp_path)
    await page.evaluate(OPEN_ALL)
    plots = json.loads(
        await page.evaluate(
            """JSON.stringify([...document.querySelectorAll('.panel > svg[role=img]')].map(svg => ({
                words: svg.getAttribute('aria-label'),
                height: svg.getBoundingClientRect().height,
                drawn: [...svg.querySelectorAll('path.line, path.dots, use')].length,
                labels: [...svg.querySelectorAll('text.y')].length,
            })))"""
        )
    )
    assert len(plots) >= 5
    for plot in plots:
        assert plot["height"] >= 60
        assert plot["drawn"] >= 1
        assert plot["labels"] >= 2 or "from sending to end" in plot["words"]
        assert any(letter.isdigit() for letter in plot["words"])
