"""The target: the user's app as a real server process, watched, and surely gone at the end."""

from ._start import started as started
from ._target import Target as Target

__all__ = ("Target", "started")
