"""The demo: the blog post's service made real, its seed twin, and the neighbours they talk to."""

from ._run import run_demo as run_demo

__all__ = ("run_demo",)
