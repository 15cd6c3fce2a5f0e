"""The agent: runs inside the app's own process and tells prove what happens there.

It is loaded as a package of its own, without the rest of stormproof, so that it brings no library
into the app that the app does not use: standard library only, relative imports only.
"""

from ._start import start as start

__all__ = ("start",)
