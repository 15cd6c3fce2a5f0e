"""The audits: one file each, a pure function of the recording with the words for a person."""

from stormproof.prove._audit import Audit

from . import (
    disconnect_cancels,
    leak_free,
    loop_blocking,
    slow_reader,
    slow_sender,
    stream_heartbeat,
    task_hygiene,
)

AUDITS: tuple[Audit, ...] = (
    loop_blocking.AUDIT,
    task_hygiene.AUDIT,
    leak_free.AUDIT,
    disconnect_cancels.AUDIT,
    slow_reader.AUDIT,
    slow_sender.AUDIT,
    stream_heartbeat.AUDIT,
)

__all__ = ("AUDITS",)
