"""For tests: a clock turned by hand, a loop in virtual time, a database that forgets."""

import asyncio
import selectors
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .database import Database, DatabaseSession

T = TypeVar("T")


class HandClock:
    """A clock that stands still until it is turned.

    Args:
        at: Where it stands at first, in seconds.
    """

    def __init__(self, at: float = 1000.0) -> None:
        self._at = at

    def now(self) -> float:
        """Return where the clock stands, in seconds."""
        return self._at

    def turn(self, seconds: float) -> None:
        """Turn it forward by `seconds`."""
        if seconds < 0:
            raise ValueError(f"a monotonic clock cannot be turned back; got {seconds!r}")
        self._at += seconds


def run_in_virtual_time(main: Coroutine[Any, Any, T], *, clock: HandClock | None = None) -> T:
    """Run `main` in a loop that never waits for time: it turns `clock` forward instead.

    Sleeps and timeouts of any length take no real time, and their order is exact.
    Sockets, threads and subprocesses do not go with it: they live in real time.

    Args:
        main: The coroutine to run.
        clock: What the loop counts by; pass the same one to what `main` tests.
    """
    clock = clock or HandClock()
    with asyncio.Runner(loop_factory=lambda: _VirtualLoop(clock)) as runner:
        return runner.run(main)


def rolled_back(database: "Database") -> "AbstractAsyncContextManager[DatabaseSession]":
    """Return a block whose work on `database` is undone at its end, what was committed included.

    Inside, all units of work run in one transaction on one connection: a COMMIT becomes the
    release of a savepoint, a rollback goes back to it. That holds for what the app opens itself
    (`database.session`, `database.stream`, `stormproof.session(database)`), and for the session
    that the block gives, which may also stand in for a dependency of the app's own
    (`app.dependency_overrides[get_db] = lambda: session`).

    Units of work have to come one after another, or one inside the other: they share the
    connection. What is checked at a real COMMIT (deferred constraints) is not checked, and a
    `read_session` may write. The block belongs inside the app's lifespan and into its loop; a
    database that is not open is opened for it.

    Raises:
        InvalidSetting: Inside another such block; or, inside, for a sync session.

    versionadded: 0.1
    """
    from .database import rolled_back as block

    return block(database)


class _VirtualLoop(asyncio.SelectorEventLoop):
    """A selector loop on a clock turned by hand."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock
        super().__init__(_TurningSelector(clock))

    def time(self) -> float:
        return self.clock.now()


class _TurningSelector(selectors.SelectSelector):
    """Turns the clock by what it was asked to wait, and looks at its descriptors at once."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        if timeout > 0:
            self._clock.turn(timeout)
        return super().select(0)
