"""The audits: one file each, a pure function of the recording with the words for a person."""

from stormproof.prove._audit import Audit

AUDITS: tuple[Audit, ...] = ()

__all__ = ("AUDITS",)
