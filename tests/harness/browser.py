"""A real browser without a window: Chromium, driven through its DevTools protocol."""

import asyncio
import base64
import itertools
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from .process import ServerProcess

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_TIMEOUT = 30.0
_KEYS = {
    "Tab": {"code": "Tab", "windowsVirtualKeyCode": 9},
    "Enter": {"code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"},
}


class NoBrowser(RuntimeError):
    """There is no Chromium on PATH."""


def browser_path() -> str:
    """Return the browser on PATH.

    Raises:
        NoBrowser: There is none; says how to get one.
    """
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise NoBrowser(
            f"no browser on PATH ({', '.join(_NAMES)}): run `sh scripts/browser.sh` as root on "
            "Debian, or install Chromium"
        )
    return found


@asynccontextmanager
async def opened_page() -> AsyncIterator["Page"]:
    """Start a browser with one empty page; at exit the browser and its files are gone."""
    with tempfile.TemporaryDirectory(
        prefix="stormproof-browser-", ignore_cleanup_errors=True
    ) as folder:
        command = [
            browser_path(),
            "--headless",
            "--no-sandbox",  # containers have no user namespaces; the pages are our own files
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-crash-reporter",
            "--no-first-run",
            "--hide-scrollbars",
            "--remote-debugging-port=0",
            f"--user-data-dir={folder}/profile",
            "about:blank",
        ]
        process = ServerProcess(command, env={"HOME": folder}, folder=Path(folder))
        async with process:
            line = await process.wait_for_line(r"DevTools listening on (ws://\S+)", _TIMEOUT)
            async with connect(line[1], max_size=None, proxy=None) as socket:
                page = Page(socket)
                listening = asyncio.create_task(page.listen())
                try:
                    await page.attach()
                    yield page
                finally:
                    listening.cancel()
                    await asyncio.gather(listening, return_exceptions=True)


class Page:
    """One page of the browser.

    Attributes:
        complaints: Errors and warnings on its console, exceptions, refusals of its policy.
        requested: Every address it asked for, the page's own included.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.complaints: list[str] = []
        self.requested: list[str] = []
        self._socket = socket
        self._session: str | None = None
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()

    async def listen(self) -> None:
        """Take the browser's messages until cancelled."""
        async for text in self._socket:
            message = json.loads(text)
            answer = self._answers.pop(message.get("id", 0), None)
            if answer is not None and not answer.done():
                answer.set_result(message)
            elif "method" in message:
                self._note(message["method"], message["params"])

    async def attach(self) -> None:
        """Take hold of the page; `opened_page` does."""
        targets = await self._ask("Target.getTargets")
        target = next(each for each in targets["targetInfos"] if each["type"] == "page")
        attached = await self._ask(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self._ask(f"{domain}.enable")

    async def open(self, place: Path | str) -> None:
        """Open a file or an address and wait until it is loaded."""
        self._loaded.clear()
        url = place if isinstance(place, str) else place.as_uri()
        await self._ask("Page.navigate", url=url)
        async with asyncio.timeout(_TIMEOUT):
            await self._loaded.wait()

    async def look(self, *, width: int, height: int = 900, is_dark: bool = False) -> None:
        """Set the size of the screen in CSS pixels, and the colours a person prefers."""
        await self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        await self._ask("Emulation.setEmulatedMedia", features=[scheme])

    async def without_scripts(self) -> None:
        """Let no script of a page run from now on."""
        await self._ask("Emulation.setScriptExecutionDisabled", value=True)

    async def press(self, key: str) -> None:
        """Press and release `Tab` or `Enter`."""
        for kind in ("keyDown", "keyUp"):
            await self._ask("Input.dispatchKeyEvent", type=kind, key=key, **_KEYS[key])

    async def evaluate(self, expression: str) -> Any:
        """Return what an expression gives, also a promise's value, as JSON has it."""
        answer = await self._ask(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    async def screenshot(self) -> bytes:
        """Return the whole page as PNG."""
        picture = await self._ask("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(picture["data"])

    async def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._answers[number] = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(_TIMEOUT):
            await self._socket.send(json.dumps(message))
            answer = await self._answers[number]
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _note(self, method: str, facts: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Network.requestWillBeSent":
            self.requested.append(facts["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(facts["exceptionDetails"]))
        elif method == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.complaints.append(facts["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and facts["type"] in ("error", "warning"):
            self.complaints.append(str(facts["args"]))
