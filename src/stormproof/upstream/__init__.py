"""Upstreams: one HTTP client for the service's life, total timeouts, and partial fan-out."""

from ._gathered import Gathered as Gathered
from ._gathered import UpstreamError as UpstreamError
from ._upstream import Target as Target
from ._upstream import Upstream as Upstream

__all__ = ("Gathered", "Target", "Upstream", "UpstreamError")
