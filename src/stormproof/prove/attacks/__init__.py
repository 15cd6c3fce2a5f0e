"""The attacks: one file each; each drives a server of its own and leaves a record."""

from stormproof.prove._attack import Attack

from . import baseline, clients, patience

ATTACKS: tuple[Attack, ...] = (baseline.ATTACK, clients.ATTACK, patience.ATTACK)

__all__ = ("ATTACKS",)
