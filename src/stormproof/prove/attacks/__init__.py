"""The attacks: one file each; each drives a server of its own and leaves a record."""

from stormproof.prove._attack import Attack

from . import baseline, commit, dependencies, health

ATTACKS: tuple[Attack, ...] = (
    baseline.ATTACK,
    commit.ATTACK,
    health.ATTACK,
    dependencies.ATTACK,
)

__all__ = ("ATTACKS",)
