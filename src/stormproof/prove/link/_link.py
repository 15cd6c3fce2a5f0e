"""The link: all agents of one app's processes, their events, and commands to all of them."""

import asyncio
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from stormproof.prove._recording import AgentEvent

from ._injection import SOCKET, write_injection
from ._peer import Peer

_COMMAND_TIMEOUT = 3.0


class AgentLink:
    """What the agents inside the app's processes tell, and what they are told to do.

    Attributes:
        events: All so far, of all processes, in the order they came; times are of the recording.
        environment: What to add to the app's environment, with its own PYTHONPATH kept behind ours.
    """

    def __init__(self, zero: float, folder: Path, pythonpath: str) -> None:
        self.events: list[AgentEvent] = []
        self._zero = zero
        self._folder = folder
        self._pythonpath = pythonpath
        self._connected: set[Peer] = set()
        self._peers: set[Peer] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._news = asyncio.Condition()

    @classmethod
    @asynccontextmanager
    async def listening(
        cls, zero: float, *, environ: Mapping[str, str] = os.environ
    ) -> AsyncIterator["AgentLink"]:
        """Listen on a Unix socket in a private temporary folder, until the block ends.

        Then all agents are cut off; each gives back what it holds in its app.

        Args:
            zero: Monotonic time of the recording's beginning.
            environ: What the app's environment is made of; its PYTHONPATH stays in force.
        """
        folder = Path(_private_folder())
        link = cls(zero, folder, environ.get("PYTHONPATH", ""))
        server = None
        try:
            write_injection(folder)
            server = await asyncio.start_unix_server(link._serve, str(folder / "socket"))
            yield link
        finally:
            if server is not None:
                server.close()
            await link._close()
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def environment(self) -> Mapping[str, str]:
        """What to add to the environment of the app's first process."""
        paths = [str(self._folder), self._pythonpath]
        joined = os.pathsep.join(path for path in paths if path)
        return {"PYTHONPATH": joined, SOCKET: str(self._folder / "socket")}

    @property
    def pids(self) -> frozenset[int]:
        """The processes that have a live agent."""
        return frozenset(peer.pid for peer in self._peers)

    async def until(self, kind: str, timeout: float) -> AgentEvent | None:
        """Wait for the first event of a kind, old or new; None after `timeout` seconds."""
        seen = 0
        try:
            async with asyncio.timeout(timeout), self._news:
                while True:
                    for event in self.events[seen:]:
                        if event.kind == kind:
                            return event
                    seen = len(self.events)
                    await self._news.wait()
        except TimeoutError:
            return None

    async def census(self, timeout: float = 2.0) -> dict[str, Any]:
        """Return what is alive in the app, summed over its processes.

        Waits for each process for at most `timeout` seconds; one that does not answer (a C call
        holds its interpreter) is left out. `processes` tells how many have answered.
        """
        return _summed(await self._ask_all("census", timeout))

    async def fail_commits(self, *, on: bool) -> None:
        """Make the COMMIT of every transaction that wrote fail from now on, or no longer.

        Nothing is committed then: the transaction is rolled back as after any failed COMMIT.
        """
        await self._ask_all("fail-commits", _COMMAND_TIMEOUT, on=on)

    async def exhaust_pools(self) -> int:
        """Check out and keep every connection of every pool; return how many are held.

        Takes at most about 2 s; connections that the app holds are taken when they come back.
        """
        answers = await self._ask_all("exhaust-pools", _COMMAND_TIMEOUT)
        return sum(int(answer or 0) for answer in answers)

    async def release_pools(self) -> None:
        """Give all those connections back."""
        await self._ask_all("release-pools", _COMMAND_TIMEOUT)

    async def collect(self) -> None:
        """Collect garbage in the app, so that what was lost there shows."""
        await self._ask_all("collect", _COMMAND_TIMEOUT)

    async def _ask_all(self, command: str, timeout: float, **more: Any) -> list[Any]:
        peers = sorted(self._peers, key=lambda peer: peer.pid)
        answers = await asyncio.gather(*(peer.ask(command, timeout, more) for peer in peers))
        return [answer for answer in answers if answer is not None]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        peer = Peer(reader, writer, self._zero)
        self._connected.add(peer)
        try:
            async for batch in peer.batches():
                if peer.pid:
                    self._peers.add(peer)
                self.events.extend(batch)
                async with self._news:
                    self._news.notify_all()
        finally:
            self._peers.discard(peer)
            self._connected.discard(peer)
            self._serving.discard(task)
            peer.close()

    async def _close(self) -> None:
        # The connections are cut and not the tasks cancelled: each then ends as at any other end.
        for peer in self._connected:
            peer.close()
        if self._serving:
            await asyncio.wait(self._serving)


def _private_folder() -> str:
    """Return a new folder of our own; the path of a Unix socket has about 100 characters."""
    folder = tempfile.mkdtemp(prefix="stormproof-prove-")
    if len(folder) < 80:
        return folder
    Path(folder).rmdir()
    return tempfile.mkdtemp(prefix="stormproof-prove-", dir="/tmp")


def _summed(answers: list[dict[str, Any]]) -> dict[str, Any]:
    by_name: Counter[str] = Counter()
    limiter: Counter[str] = Counter()
    for answer in answers:
        by_name.update(answer["tasks_by_name"])
        limiter.update(answer["limiter"])
    return {
        "at": time.monotonic(),
        "processes": len(answers),
        "tasks": sum(answer["tasks"] for answer in answers),
        "threads": sum(answer["threads"] for answer in answers),
        "fds": sum(answer["fds"] for answer in answers),
        "checkouts": [checkout for answer in answers for checkout in answer["checkouts"]],
        "pools": [pool for answer in answers for pool in answer["pools"]],
        "limiter": {name: limiter[name] for name in ("total", "borrowed", "waiting")},
        "tasks_by_name": dict(by_name),
    }
