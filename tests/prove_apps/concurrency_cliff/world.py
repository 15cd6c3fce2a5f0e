"""A PostgreSQL."""

from tests.prove_apps.worlds import postgres as world

__all__ = ("world",)
