"""The audits: one file each, a pure function of the recording with the words for a person."""

from stormproof.prove._audit import Audit

from . import (
    drain_background,
    drain_budget,
    drain_in_flight,
    drain_keepalive,
    drain_late_arrivals,
    drain_streams,
)

AUDITS: tuple[Audit, ...] = (
    drain_in_flight.AUDIT,
    drain_late_arrivals.AUDIT,
    drain_keepalive.AUDIT,
    drain_streams.AUDIT,
    drain_budget.AUDIT,
    drain_background.AUDIT,
)

__all__ = ("AUDITS",)
