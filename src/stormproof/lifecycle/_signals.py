"""Signals: put the drain before the server's own reaction to SIGTERM and SIGINT."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

from stormproof._core.events import Event, PhaseEntered

from ._backstop import Backstop
from ._drain import Drain, Server
from ._relay import SignalRelay, is_handled_by_loop
from ._uvicorn import Uvicorn

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_Handler = Callable[[int, FrameType | None], Any]


class _SignalledServer:
    """Any other server: it is told by the signal that the drain has held back."""

    def __init__(self, tell: Callable[[], object]) -> None:
        self._tell = tell

    def stop_listening(self) -> None:
        """Nothing: it closes its listener when it begins its shutdown."""

    def begin_shutdown(self) -> None:
        self._tell()

    def has_connections(self) -> bool:
        return True

    def has_new_connections(self) -> bool:
        return False

    def abort_connections(self, tasks: Iterable["asyncio.Task[object]"]) -> None:
        """Nothing: this server keeps its connections to itself."""

    def note_loss(self) -> None:
        """Nothing: the exit code is this server's own."""


class _Reaction:
    """What a signal does: the first one begins the drain, another one forces its end."""

    def __init__(self, drain: Drain) -> None:
        self.lifecycle = drain.lifecycle
        self._drain = drain
        self._loop = asyncio.get_running_loop()
        self._has_begun = False
        self.backstop = Backstop(drain, self._loop)

    def to(self, signum: int, server: Server) -> None:
        """React to `signum`; may be called between any two instructions of the main thread."""
        prestop = 0.0 if signum == signal.SIGINT else None
        if self.lifecycle.is_draining or self._has_begun:
            self._loop.call_soon_threadsafe(self._drain.force)
        else:
            self._loop.call_soon_threadsafe(lambda: self._drain.begin(server, prestop=prestop))
        self._has_begun = True
        self.backstop.arm()


@contextmanager
def drain_on_signals(drain: Drain) -> Iterator[None]:
    """Inside the block, SIGTERM and SIGINT begin `drain`; the server hears of it afterwards.

    To be entered from the lifespan's start, when the server has installed its handlers.
    SIGINT (a person at a terminal) drains without a lame duck. A second signal forces. When
    the grace is over and the server has not ended, the process is ended.
    Where there is no handler to wrap (tests, another thread, Windows services), nothing is
    changed, and the drain begins when the server ends the lifespan. The former handlers are
    put back at the end.
    """
    with ExitStack() as stack:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and not drain.is_commanded:
            reaction = _Reaction(drain)
            stack.callback(reaction.backstop.disarm)
            for signum in _SIGNALS:
                _wrap(signum, reaction, stack)
            held = [signum for signum in _SIGNALS if is_handled_by_loop(signum)]
            if held:
                stack.enter_context(_relayed(held, reaction))
        yield


def _wrap(signum: signal.Signals, reaction: _Reaction, stack: ExitStack) -> None:
    former = signal.getsignal(signum)
    if not callable(former) or former is signal.default_int_handler or is_handled_by_loop(signum):
        return
    server = _server_behind(former, signum)

    def on_signal(number: int, frame: FrameType | None) -> None:
        reaction.to(number, server)

    signal.signal(signum, on_signal)
    stack.callback(signal.signal, signum, former)


def _server_behind(handler: _Handler, signum: int) -> Server:
    owner = Uvicorn.owns(handler)
    if owner is not None:
        return Uvicorn(owner)
    return _SignalledServer(lambda: handler(signum, None))


@contextmanager
def _relayed(held: list[signal.Signals], reaction: _Reaction) -> Iterator[None]:
    """Hold back signals that the loop itself handles (`add_signal_handler`), as hypercorn does."""

    def on_signal(number: int) -> None:
        reaction.to(number, _SignalledServer(lambda: relay.pass_on(number)))

    def keep_when_ready(event: Event) -> None:
        if isinstance(event, PhaseEntered) and event.phase == "ready":
            relay.keep()

    with SignalRelay(frozenset(held), on_signal) as relay:
        unsubscribe = reaction.lifecycle.events.subscribe(keep_when_ready)
        try:
            yield
        finally:
            unsubscribe()
