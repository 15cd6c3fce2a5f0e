"""An HTTP upstream."""

from tests.prove_apps.worlds import upstream as world

__all__ = ("world",)
