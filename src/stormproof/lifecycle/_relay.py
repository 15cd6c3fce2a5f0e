"""A relay in front of an event loop's own signal handling, which holds signals back."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

_FIRST_LOOK = 0.002
_LAST_LOOK = 1.0
"""Seconds between two looks whether the loop has put its own descriptor back, doubled each time:
uvloop does so whenever it starts to run, and granian runs the lifespan's start and the service
one after the other."""


def is_handled_by_loop(signum: int) -> bool:
    """Return whether the running loop handles `signum` itself (`loop.add_signal_handler`)."""
    module = getattr(signal.getsignal(signum), "__module__", "") or ""
    return module.startswith(("asyncio.unix_events", "uvloop", "rloop"))


class SignalRelay:
    """Reads the numbers of arriving signals before the loop does, and passes them on.

    A loop learns of signals from a descriptor that the interpreter writes their numbers to
    (`signal.set_wakeup_fd`). The relay puts its own in place; numbers in `held` go to
    `on_signal`, in the loop, all others to the loop's own descriptor. To be entered and left
    in the main thread, in the loop.

    Args:
        held: The signals that the loop is not to see.
        on_signal: Called with the number of each of them.
    """

    def __init__(self, held: frozenset[int], on_signal: Callable[[int], None]) -> None:
        self._held = held
        self._on_signal = on_signal
        self._loop = asyncio.get_running_loop()
        self._loops_own = -1
        self._look: asyncio.TimerHandle | None = None

    def __enter__(self) -> "SignalRelay":
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._loop.add_reader(self._reader, self._read)
        self._take()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._look is not None:
            self._look.cancel()
        self._take()  # the loop may have run anew, with another descriptor
        with suppress(OSError, ValueError):  # it may have closed its own by now
            signal.set_wakeup_fd(self._loops_own, warn_on_full_buffer=False)
        self._loop.remove_reader(self._reader)
        self._reader.close()
        self._writer.close()

    def pass_on(self, number: int) -> None:
        """Let the loop see the signal `number`, as if it came now."""
        self._take()  # never write to a descriptor that the loop has closed meanwhile
        if self._loops_own >= 0:
            with suppress(OSError):
                os.write(self._loops_own, bytes([number]))

    def keep(self) -> None:
        """Take the place again in case that the loop stops and runs anew about now."""
        self._keep_for(_FIRST_LOOK)

    def _keep_for(self, seconds: float) -> None:
        self._take()
        if seconds <= _LAST_LOOK:
            self._look = self._loop.call_later(seconds, self._keep_for, seconds * 2)

    def _take(self) -> None:
        former = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        if former != self._writer.fileno():
            self._loops_own = former

    def _read(self) -> None:
        try:
            numbers = self._reader.recv(256)
        except BlockingIOError:
            return
        for number in numbers:
            if number in self._held:
                self._on_signal(number)
            else:
                self.pass_on(number)
