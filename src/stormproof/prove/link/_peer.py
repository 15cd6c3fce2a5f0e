"""A peer: one agent in one process of the app, as JSON lines both ways."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from stormproof.prove._recording import AgentEvent

_TIMES = ("began", "ended")
_CHUNK = 262_144


class Peer:
    """One agent's connection; `pid` is 0 until it has said who it is."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, zero: float
    ) -> None:
        self.pid = 0
        self._reader = reader
        self._writer = writer
        self._zero = zero
        self._last = 0
        self._asked: dict[int, asyncio.Future[Any]] = {}

    async def batches(self) -> AsyncIterator[list[AgentEvent]]:
        """Yield events as they come, until the process ends or the link is closed."""
        rest = b""
        try:
            while chunk := await self._reader.read(_CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield [event for item in json.loads(line) if (event := self._taken(*item))]
        except ConnectionError:
            return
        finally:
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_result(None)

    async def ask(self, command: str, timeout: float, more: dict[str, Any]) -> Any:
        """Send a command and wait for its value; None when none came within `timeout` seconds."""
        self._last += 1
        number = self._last
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": number, "command": command, **more})
        try:
            self._writer.write(line.encode() + b"\n")
            async with asyncio.timeout(timeout):
                return await asked
        except (TimeoutError, ConnectionError):
            return None
        finally:
            del self._asked[number]

    def close(self) -> None:
        """Cut the connection; the agent gives back what it holds."""
        self._writer.transport.abort()

    def _taken(self, at: float, kind: str, facts: dict[str, Any]) -> AgentEvent | None:
        if kind == "hello":
            self.pid = facts["pid"]
            return None
        if kind == "reply":
            asked = self._asked.get(facts["to"])
            if asked is not None and not asked.done():
                asked.set_result(facts.get("value"))
            return None
        for name in _TIMES:
            if name in facts:
                facts[name] -= self._zero
        return AgentEvent(at - self._zero, self.pid, kind, facts)
