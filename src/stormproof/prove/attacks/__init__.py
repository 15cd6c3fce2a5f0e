"""The attacks: one file each; each drives a server of its own and leaves a record."""

from stormproof.prove._attack import Attack

from . import (
    baseline,
    clients,
    commit,
    concurrency,
    dependencies,
    drain,
    drain_streams,
    health,
    overload,
    patience,
    threads,
)

ATTACKS: tuple[Attack, ...] = (
    baseline.ATTACK,
    patience.ATTACK,
    drain.ATTACK,
    drain_streams.ATTACK,
    clients.ATTACK,
    commit.ATTACK,
    health.ATTACK,
    dependencies.ATTACK,
    overload.ATTACK,
    concurrency.ATTACK,
    threads.ATTACK,
)

__all__ = ("ATTACKS",)
