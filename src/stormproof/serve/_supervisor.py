"""The supervisor: holds the listening sockets, keeps workers serving, replaces them seamlessly."""

import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType

from stormproof.errors import StartFailed, StormproofError

from ._child import Child, Recipe
from ._generation import Generation
from ._link import Workforce
from ._listen import addresses_of, open_listeners
from ._logs import set_up_logs
from ._options import ServeOptions, Supervision
from ._pid_file import pid_file
from ._run import EXIT_CLEAN, EXIT_LOST_OR_NOT_STARTED, admin_server
from ._terminal import Terminal
from ._watch import hand_over_on_change

_log = logging.getLogger("stormproof")

_TICK = 0.1
"""Seconds between two looks at the clocks when nothing is heard."""

_HELD_UP = 1.0
"""Seconds between two looks after which the parent itself was held up, and judges nobody."""


def supervise(target: str | None, options: ServeOptions, supervision: Supervision) -> int:
    """Serve `target` in worker processes until SIGTERM or SIGINT; return the exit code.

    This process holds the listening sockets and never runs the app. Workers that end, or whose
    event loop stops turning, are replaced, after a pause that doubles while they keep ending.
    SIGHUP starts a whole new generation, and lets the old one drain once the new one serves.
    SIGTERM and SIGINT let all drain at once; a second one forces. Blocks the calling (main)
    thread. Killed itself, its workers drain and leave.

    Returns:
        0 after a clean drain; 3 when acknowledged work was lost in it.

    Raises:
        PortInUse: The address is taken or may not be used; nothing was started.
        StartFailed: The first worker did not come to serve; nothing is left running.
        MissingExtra: A folder is to be watched, and watchfiles is not installed.
        InvalidSetting: The worker said that a setting is wrong, or the pid file cannot be written.
    """
    set_up_logs(options.log_format)
    workforce = Workforce() if options.admin is not None else None
    with ExitStack() as stack:
        if workforce is not None:
            stack.enter_context(admin_server(workforce, options, jobs=workforce.jobs))
        listeners = open_listeners(options)
        for listener in listeners:
            stack.callback(listener.close)
        stack.enter_context(pid_file(supervision.pid_file))
        recipe = Recipe(target, options, listeners, _folder(), workforce)
        return Supervisor(recipe, supervision).run()


class Supervisor:
    """Keeps the workers; a loop over what they say, what the signals want, and the clock.

    Args:
        recipe: What a worker is started with; its sockets are closed when the drain begins.
        supervision: How many, and the limits.
    """

    def __init__(self, recipe: Recipe, supervision: Supervision) -> None:
        self._recipe = recipe
        self._supervision = supervision
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._terminal = Terminal()
        self._current = self._generation()
        self._next: Generation | None = None
        self._leaving: list[Child] = []
        self._is_reload_wanted = False
        self._is_ending = False
        self._has_lost = False
        self._failure: StormproofError | None = None
        self._is_announced = False
        self._looked_at = time.monotonic()

    def run(self) -> int:
        """Supervise until a signal has ended it all; see `supervise`."""
        with ExitStack() as stack:
            stack.enter_context(self._selector)
            stack.callback(self._leave_nothing_running)
            stack.enter_context(self._caught_signals())
            stack.enter_context(hand_over_on_change(self._supervision.watched))
            while not self._is_over():
                self._look(time.monotonic())
                self._selector.select(_TICK)
        if self._failure is not None:
            raise self._failure
        _log.info("all workers have ended, %s", "work was lost" if self._has_lost else "0 lost")
        return EXIT_LOST_OR_NOT_STARTED if self._has_lost else EXIT_CLEAN

    def _is_over(self) -> bool:
        return self._failure is not None or (self._is_ending and not self._children())

    def _look(self, now: float) -> None:
        self._listen(now)
        self._bury(now)
        self._obey_signals(now)
        if not self._is_ending and self._failure is None:
            self._hand_over(now)
            for generation in (self._current, self._next):
                for child in generation.start_missing(now) if generation is not None else ():
                    self._selector.register(child.wire, selectors.EVENT_READ)
        self._judge(now)

    def _listen(self, now: float) -> None:
        was_held_up = now - self._looked_at - _TICK
        self._looked_at = now
        for key in self._selector.get_map().values():
            if isinstance(key.fileobj, socket.socket):
                with suppress(BlockingIOError):
                    key.fileobj.recv(4096)  # what the signals have written to wake us
        for child in self._children():
            if was_held_up > _HELD_UP:
                child.pardon(was_held_up)  # the whole machine may have been frozen, or asleep
            if not child.listen(now):
                self._forget(child)
        if not self._is_announced and self._current.has_served:
            self._is_announced = True
            _log.info(
                "serving on %s (pid %d, workers: %d)",
                addresses_of(self._recipe.listeners, self._recipe.options),
                os.getpid(), self._current.size,
            )  # fmt: skip

    def _bury(self, now: float) -> None:
        """Take out the workers that have ended, and note what that means."""
        for child in [child for child in self._children() if child.exit_code is not None]:
            child.listen(now)
            self._forget(child)
            self._note_end(child, now)
            child.close()

    def _note_end(self, child: Child, now: float) -> None:
        code = child.exit_code
        if child in self._leaving:
            self._leaving.remove(child)
            # What never served has acknowledged nothing.
            is_lossy = code != EXIT_CLEAN and child.ready_at is not None
            self._has_lost |= self._is_ending and is_lossy
            level = logging.INFO if code == EXIT_CLEAN else logging.ERROR
            _log.log(level, "worker %d has ended %s, %d lost", child.pid, _how(child), child.lost)
        elif self._next is not None and child in self._next.children:
            self._next.remove(child, now)
            self._give_up_next(now, f"worker {child.pid} ended {_how(child)} at its start")
        else:
            pause = self._current.remove(child, now)
            if not self._current.has_served:
                self._failure = child.failure or StartFailed(
                    f"no worker came to serve: the first ended {_how(child)}; its own lines "
                    "above say why"
                )
                return
            _log.error("worker %d ended %s; the next in %g s", child.pid, _how(child), pause)

    def _obey_signals(self, now: float) -> None:
        signals, self._signals = self._signals, []
        for number in signals:
            if number == signal.SIGHUP and not self._terminal.is_gone():
                self._is_reload_wanted = True
            elif self._is_ending:
                self._force(now)
            else:
                self._end(now, number)

    def _end(self, now: float, number: int) -> None:
        """Let everybody drain; from here on nobody is replaced."""
        self._is_ending = True
        _log.info("%s: all workers drain", signal.Signals(number).name)
        # Workers hold the same sockets: the last of them to close takes in who waits. Ours
        # would go on queueing clients that nobody will ever serve.
        for listener in self._recipe.listeners:
            listener.close()
        for generation in (self._current, self._next):
            self._leaving += generation.clear() if generation is not None else ()
        for child in self._leaving:
            child.drain(now, prestop=0.0 if number == signal.SIGINT else None)

    def _force(self, now: float) -> None:
        _log.warning("second signal: all workers cut what is left")
        for child in self._leaving:
            child.force(now)

    def _hand_over(self, now: float) -> None:
        """Start a new generation when one is wanted, and let the old one go when it serves."""
        if self._next is not None and self._next.is_serving:
            _log.info("hand-over: %d new workers serve, the old ones drain", self._next.size)
            old, self._current, self._next = self._current.clear(), self._next, None
            self._leaving += old
            for child in old:
                child.retire(now)
        if self._is_reload_wanted and self._next is None and self._current.has_served:
            self._is_reload_wanted = False
            _log.info("hand-over: starting %d new workers", self._supervision.workers)
            self._next = self._generation()

    def _give_up_next(self, now: float, why: str) -> None:
        assert self._next is not None  # the caller has found it
        _log.error("hand-over given up, the old workers stay: %s", why)
        given_up, self._next = self._next.clear(), None
        self._leaving += given_up
        for child in given_up:
            child.retire(now)

    def _judge(self, now: float) -> None:
        """Kill who is over their time, and condemn who is stuck."""
        for child in self._children():
            if child.is_killed:
                continue
            if child.kill_at is not None and now >= child.kill_at:
                _log.error("worker %d is killed: its time is over", child.pid)
                child.kill()
            elif child.ready_at is None and now - child.started_at > self._supervision.start_limit:
                self._condemn_start(child, now)
            elif self._is_stuck(child, now) and child.condemn(now):
                _log.error(
                    "worker %d is stuck: its event loop has not turned for %.1f s "
                    "(--stall-kill %g); its stacks follow, then it is killed and replaced",
                    child.pid, child.stalled_for(now), self._supervision.stall_kill,
                )  # fmt: skip

    def _is_stuck(self, child: Child, now: float) -> bool:
        limit = self._supervision.stall_kill
        return limit is not None and child.stalled_for(now) > limit

    def _condemn_start(self, child: Child, now: float) -> None:
        if child.condemn(now):
            child.failure = StartFailed(
                f"a worker did not serve within {self._supervision.start_limit:g} s; give it "
                "longer by --start-limit, or see in its stacks above what it waits for"
            )
            _log.error("worker %d is stuck in its start; its stacks follow", child.pid)

    def _generation(self) -> Generation:
        return Generation(self._recipe, self._supervision.workers)

    def _children(self) -> list[Child]:
        coming = self._next.children if self._next is not None else []
        return [*self._current.children, *coming, *self._leaving]

    def _forget(self, child: Child) -> None:
        with suppress(KeyError):
            self._selector.unregister(child.wire)

    def _leave_nothing_running(self) -> None:
        for child in self._children():
            child.close()

    @contextmanager
    def _caught_signals(self) -> Iterator[None]:
        """Note signals inside the block, and let them wake the selector."""
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for end in (ours, theirs):
                end.setblocking(False)
            self._selector.register(ours, selectors.EVENT_READ)
            wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
            former = {number: signal.signal(number, self._note_signal) for number in numbers}
            try:
                yield
            finally:
                for number, handler in former.items():
                    signal.signal(number, handler)
                signal.set_wakeup_fd(wakeup)
                self._selector.unregister(ours)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:  # which is only there to wake us
            self._signals.append(number)


def _how(child: Child) -> str:
    said = f" ({child.failure})" if child.failure is not None else ""
    code = child.exit_code
    if code is None or code >= 0:
        return f"with exit code {code}{said}"
    try:
        return f"by {signal.Signals(-code).name}{said}"
    except ValueError:
        return f"by signal {-code}{said}"


def _folder() -> str:
    """Return the working directory by the name it was entered by, if that is known.

    A deploy often puts a symbolic link on the new release: new workers are to follow it.
    """
    named, real = os.environ.get("PWD"), os.getcwd()
    with suppress(OSError):
        if named is not None and os.path.samefile(named, real):
            return named
    return real
