"""The terminal that a command was started from: with it gone, SIGHUP means something else."""

import os


class Terminal:
    """Tells a hang-up from a wish: both are SIGHUP."""

    def __init__(self) -> None:
        self._was_there = _is_terminal()

    def is_gone(self) -> bool:
        """Return whether the process was started from a terminal that is no longer there."""
        return self._was_there and not _is_terminal()


def _is_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False
