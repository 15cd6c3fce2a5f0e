"""An HTTP upstream, and a deadline that a test can wait for."""

from tests.prove_apps.worlds import upstream as world

OPTIONS = {app: {"deadline": 5.0} for app in ("defect", "sound")}

__all__ = ("OPTIONS", "world")
