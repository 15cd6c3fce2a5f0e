"""Upstreams: one HTTP client for the service's life, total timeouts, and partial fan-out."""

from ._attempts import Limit as Limit
from ._client import Client as Client
from ._gathered import Gathered as Gathered
from ._statistics import UpstreamStatistics as UpstreamStatistics
from ._upstream import Target as Target
from ._upstream import Upstream as Upstream

__all__ = ("Client", "Gathered", "Limit", "Target", "Upstream", "UpstreamStatistics")
