"""The audits: one file each, a pure function of the recording with the words for a person."""

from stormproof.prove._audit import Audit

from . import (
    commit_before_ack,
    dep_blackhole,
    dep_down,
    dep_recovery,
    dep_slow_isolation,
    disconnect_cancels,
    drain_background,
    drain_budget,
    drain_in_flight,
    drain_keepalive,
    drain_late_arrivals,
    drain_streams,
    health_truth,
    leak_free,
    loop_blocking,
    pool_hold,
    retry_amplification,
    slow_reader,
    slow_sender,
    stream_heartbeat,
    task_hygiene,
    upstream_reuse,
)

AUDITS: tuple[Audit, ...] = (
    drain_in_flight.AUDIT,
    drain_late_arrivals.AUDIT,
    drain_keepalive.AUDIT,
    drain_streams.AUDIT,
    drain_budget.AUDIT,
    drain_background.AUDIT,
    loop_blocking.AUDIT,
    task_hygiene.AUDIT,
    disconnect_cancels.AUDIT,
    slow_reader.AUDIT,
    slow_sender.AUDIT,
    leak_free.AUDIT,
    commit_before_ack.AUDIT,
    dep_down.AUDIT,
    dep_slow_isolation.AUDIT,
    dep_blackhole.AUDIT,
    dep_recovery.AUDIT,
    retry_amplification.AUDIT,
    upstream_reuse.AUDIT,
    pool_hold.AUDIT,
    stream_heartbeat.AUDIT,
    health_truth.AUDIT,
)

__all__ = ("AUDITS",)
