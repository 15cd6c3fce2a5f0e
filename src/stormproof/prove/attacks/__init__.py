"""The attacks: one file each; each drives a server of its own and leaves a record."""

from stormproof.prove._attack import Attack

from . import baseline, drain, drain_streams

ATTACKS: tuple[Attack, ...] = (
    baseline.ATTACK,
    drain.ATTACK,
    drain_streams.ATTACK,
)

__all__ = ("ATTACKS",)
