"""Serve: run an ASGI app under an embedded uvicorn that drains before it stops."""

from ._load import load_app as load_app
from ._run import ServeOptions as ServeOptions
from ._run import serve as serve

__all__ = ("ServeOptions", "load_app", "serve")
