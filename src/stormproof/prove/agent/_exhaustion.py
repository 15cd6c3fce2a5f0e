"""Exhaustion: take every connection of every pool, and give them all back."""

import asyncio
import sys
import threading
import time
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

from ._arrival import IS_OURS
from ._holds import Holds
from ._requests import Requests
from ._wire import THREAD

_TAKE_LIMIT = 1.8
_GIVE_LIMIT = 1.5
_PAUSE = 0.02


class Exhaustion:
    """Holds the app's connections from the command on, until the next command or a broken link."""

    def __init__(self, requests: Requests, holds: Holds) -> None:
        self._requests = requests
        self._holds = holds
        self._takers: list[_Taker] = []

    def take(self) -> int:
        """Take all that is free, at most 1.8 s long; the rest is taken when it comes back."""
        if not self._takers:
            self._takers = [taker for taker in map(self._taker, self._engines()) if taker]
            for taker in self._takers:
                taker.start()
        give_up_at = time.monotonic() + _TAKE_LIMIT
        for taker in self._takers:
            taker.is_full.wait(max(0.0, give_up_at - time.monotonic()))
        return sum(len(taker.held) for taker in self._takers)

    def give_back(self) -> None:
        """Give everything back; waits at most 1.5 s for a loop that is stuck."""
        takers, self._takers = self._takers, []
        for taker in takers:
            taker.stop()
        give_up_at = time.monotonic() + _GIVE_LIMIT
        for taker in takers:
            taker.is_empty.wait(max(0.0, give_up_at - time.monotonic()))

    def _engines(self) -> list[Any]:
        return [engine for engine in self._holds.each_engine() if _capacity(engine.pool)]

    def _taker(self, engine: Any) -> "_Taker | None":
        if not engine.dialect.is_async:
            return _ThreadTaker(engine.pool)
        loop = self._requests.loop
        return None if loop is None else _LoopTaker(engine.pool, loop)


class _Taker:
    """Takes all connections of one pool, and gives each back once it is stopped."""

    def __init__(self, pool: Any) -> None:
        self.held: list[Any] = []
        self.is_full = threading.Event()
        self.is_empty = threading.Event()
        self._pool = pool
        self._capacity = _capacity(pool)
        self._is_stopped = False

    @property
    def _is_wanting(self) -> bool:
        return not self._is_stopped and len(self.held) < self._capacity

    def start(self) -> None:
        """Begin to take; returns at once."""
        raise NotImplementedError

    def stop(self) -> None:
        """Begin to give back; returns at once, or as soon as the driver has."""
        raise NotImplementedError


class _ThreadTaker(_Taker):
    """For a pool of synchronous code: a thread waits for connections as any endpoint does."""

    def start(self) -> None:
        self._lock = threading.Lock()
        threading.Thread(target=self._take, name=f"{THREAD}-taker", daemon=True).start()

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            held, self.held = self.held, []
        for connection in held:
            connection.close()
        self.is_empty.set()

    def _take(self) -> None:
        IS_OURS.set(True)
        while self._is_wanting:
            try:
                connection = self._pool.connect()
            except Exception:  # a wait that was too long, a database that is down: try again
                time.sleep(_PAUSE)
                continue
            with self._lock:
                if not self._is_stopped:
                    self.held.append(connection)
                    continue
            # It waited for as long as the pool allows; meanwhile all was given back.
            connection.close()
        self.is_full.set()


class _LoopTaker(_Taker):
    """For a pool of asyncio code: a task in the app's loop."""

    def __init__(self, pool: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(pool)
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._giver: asyncio.Task[None] | None = None
        self._context = Context()
        self._context.run(IS_OURS.set, True)

    def start(self) -> None:
        self._loop.call_soon_threadsafe(self._start)

    def stop(self) -> None:
        self._is_stopped = True
        try:
            self._loop.call_soon_threadsafe(self._stop)
        except RuntimeError:  # the loop is closed, and its connections with it
            self.is_empty.set()

    def _start(self) -> None:
        self._task = self._run(self._take())

    def _stop(self) -> None:
        self._giver = self._run(self._give_back())

    def _run(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        return self._loop.create_task(work, name=THREAD, context=self._context)

    async def _take(self) -> None:
        spawn = sys.modules["sqlalchemy.util"].greenlet_spawn
        while self._is_wanting:
            try:
                self.held.append(await spawn(self._pool.connect))
            except Exception:  # a wait that was too long, a database that is down: try again
                await asyncio.sleep(_PAUSE)
        self.is_full.set()

    async def _give_back(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))
        spawn = sys.modules["sqlalchemy.util"].greenlet_spawn
        while self.held:
            await spawn(self.held.pop().close)
        self.is_empty.set()


def _capacity(pool: Any) -> int:
    """Return how many connections a pool may have out; 0 where it has no limit."""
    most = getattr(pool, "_max_overflow", -1)
    size = getattr(pool, "size", None)
    return int(size()) + int(most) if callable(size) and most >= 0 else 0
