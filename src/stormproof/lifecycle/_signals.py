"""Signals: put the drain before the server's own reaction to SIGTERM and SIGINT."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

from ._drain import Drain, Server
from ._uvicorn import Uvicorn

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_Handler = Callable[[int, FrameType | None], Any]


class _SignalledServer:
    """Any other server: it is told by calling the handler that it had installed."""

    def __init__(self, handler: _Handler, signum: int) -> None:
        self._handler = handler
        self._signum = signum

    def stop_listening(self) -> None:
        """Nothing: it closes its listener when it begins its shutdown."""

    def begin_shutdown(self) -> None:
        self._handler(self._signum, None)

    def has_connections(self) -> bool:
        return True

    def has_new_connections(self) -> bool:
        return False

    def abort_connections(self, tasks: Iterable["asyncio.Task[object]"]) -> None:
        """Nothing: this server keeps its connections to itself."""


def _server_behind(handler: _Handler, signum: int) -> Server:
    owner = Uvicorn.owns(handler)
    return _SignalledServer(handler, signum) if owner is None else Uvicorn(owner)


@contextmanager
def drain_on_signals(drain: Drain) -> Iterator[None]:
    """Inside the block, SIGTERM and SIGINT begin `drain`; the server hears of it afterwards.

    To be entered from the lifespan's start, when the server has installed its handlers.
    SIGINT (a person at a terminal) drains without a lame duck. A second signal forces.
    Where there is no handler to wrap (tests, another thread, Windows services), or the
    server uses the loop's own signal handling, nothing is changed, and the drain begins when
    the server ends the lifespan. The former handlers are put back at the end.
    """
    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                _wrap(signum, drain, stack)
        yield


def _wrap(signum: signal.Signals, drain: Drain, stack: ExitStack) -> None:
    former = signal.getsignal(signum)
    if not callable(former) or former is signal.default_int_handler or _is_loop_handler(former):
        return
    loop = asyncio.get_running_loop()
    server = _server_behind(former, signum)
    seen = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        prestop = 0.0 if number == signal.SIGINT else None
        if drain.lifecycle.is_draining or seen:
            loop.call_soon_threadsafe(drain.force)
        else:
            loop.call_soon_threadsafe(lambda: drain.begin(server, prestop=prestop))
        seen = True

    signal.signal(signum, on_signal)
    stack.callback(signal.signal, signum, former)


def _is_loop_handler(handler: _Handler) -> bool:
    """Whether the loop itself handles the signal (`add_signal_handler`): it can't be held back."""
    module = getattr(handler, "__module__", "") or ""
    return module.startswith(("asyncio", "uvloop"))
