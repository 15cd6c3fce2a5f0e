"""Serve: run an ASGI app under an embedded uvicorn that drains before it stops."""

from ._advise import explained as explained
from ._load import load_app as load_app
from ._load import named_target as named_target
from ._options import ServeOptions as ServeOptions
from ._options import Supervision as Supervision
from ._reload import reload as reload
from ._run import serve as serve
from ._supervisor import supervise as supervise
from ._work import work as work

__all__ = (
    "ServeOptions",
    "Supervision",
    "explained",
    "load_app",
    "named_target",
    "reload",
    "serve",
    "supervise",
    "work",
)
