"""The stage: an app in a real uvicorn process, with the agent inside and the link to it."""

import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stormproof.prove._recording import AgentEvent
from stormproof.prove.link import AgentLink
from tests.harness import Answer, ServerProcess, free_port, request, until

REPOSITORY = Path(__file__).parents[3]


@dataclass
class Stage:
    """The app's process, its port, and what its agent tells."""

    link: AgentLink
    process: ServerProcess
    port: int

    async def ask(self, method: str, path: str, id: int | None = None, **more: Any) -> Answer:
        headers = {} if id is None else {"X-Stormproof-Id": str(id)}
        return await request(self.port, method, path, headers=headers, **more)

    def told(self, kind: str, **facts: Any) -> list[AgentEvent]:
        """Return the events of a kind that have these facts."""
        return [
            event
            for event in self.link.events
            if event.kind == kind and facts.items() <= event.facts.items()
        ]

    async def hears(self, kind: str, count: int = 1, **facts: Any) -> list[AgentEvent]:
        """Wait for that many events of a kind that have these facts."""
        return await until(
            lambda: (found := self.told(kind, **facts))[count - 1 :] and found,
            what=f"{count} of {kind} {facts}",
        )


Command = Callable[[str, int], Sequence[str]]


def plain_uvicorn(app: str, port: int, *more: str) -> Sequence[str]:
    """Return the command of uvicorn on asyncio's own loop."""
    command = [sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1"]
    return [*command, "--port", str(port), "--log-level", "warning", "--loop", "asyncio", *more]


def uvloop_uvicorn(app: str, port: int) -> Sequence[str]:
    """Return the command of uvicorn on uvloop."""
    return [*plain_uvicorn(app, port), "--loop", "uvloop"]


@asynccontextmanager
async def proven(
    source: str,
    folder: Path,
    *,
    command: Command = plain_uvicorn,
    env: dict[str, str] | None = None,
    files: dict[str, str] | None = None,
    app: str = "app:app",
    path: str = "",
) -> AsyncIterator[Stage]:
    """Run `source` as module `app` with the agent inside, until it is ready.

    Args:
        path: More of PYTHONPATH.
    """
    async with AgentLink.listening(time.monotonic()) as link:
        port = free_port()
        environment = dict(link.environment)
        paths = [environment["PYTHONPATH"], str(folder), str(REPOSITORY), path]
        environment["PYTHONPATH"] = ":".join(item for item in paths if item)
        process = ServerProcess(
            command(app, port),
            env={**environment, **(env or {})},
            files={"app.py": source, **(files or {})},
            folder=folder,
        )
        async with process:
            stage = Stage(link, process, port)
            await until(lambda: stage.told("ready") or not process.is_running(), 30.0, what="ready")
            await until(lambda: _answers(stage), 20.0, what="an answer")
            yield stage


async def _answers(stage: Stage) -> bool:
    return (await stage.ask("GET", "/openapi.json", timeout=2.0)).status > 0
