"""The link: prove's end of the wire to the agents inside the app's processes."""

from ._link import AgentLink as AgentLink

__all__ = ("AgentLink",)
