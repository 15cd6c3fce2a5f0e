"""Watch: for development, a hand-over to new code whenever a source file changes."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stormproof.errors import MissingExtra


@contextmanager
def hand_over_on_change(folder: Path | None) -> Iterator[None]:
    """Send this process SIGHUP when a Python file in `folder` changes, inside the block.

    To be entered when SIGHUP is handled: it kills a process that does not. None: do nothing.

    Several changes within 0.4 s count as one. Files that Python, editors and package managers
    write for themselves do not count. Its thread has ended when the block is left.

    Raises:
        MissingExtra: watchfiles is not installed.
    """
    if folder is None:
        yield
        return
    try:
        from watchfiles import PythonFilter, watch
    except ImportError as exc:
        raise MissingExtra(
            "--reload needs 'watchfiles'; install it with pip install 'stormproof[reload]'"
        ) from exc
    stop = threading.Event()
    changes = watch(
        folder, watch_filter=PythonFilter(), debounce=400, stop_event=stop, raise_interrupt=False
    )

    def follow() -> None:
        for _ in changes:
            os.kill(os.getpid(), signal.SIGHUP)

    with _running(follow, stop):
        yield


@contextmanager
def _running(target: Callable[[], None], stop: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=target, name="stormproof reload", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
