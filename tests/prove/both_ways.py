"""Prove an app of `tests/prove_apps/` for one audit, in the world that its folder says it needs."""

import importlib
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from stormproof.prove import PROFILES, Finding, ProveOptions, prove

ROOT = Path(__file__).parents[2]
APPS = ROOT / "tests" / "prove_apps"


def folder_of(audit: str) -> Path:
    """Return where an audit's two apps are."""
    return APPS / audit.replace("-", "_")


def variants(audit: str, kind: str) -> list[str]:
    """Return the names of an audit's `defect` or `sound` apps."""
    return sorted(path.stem for path in folder_of(audit).glob(f"{kind}*.py"))


async def proved(audit: str, app: str, *, is_quick: bool = True) -> Finding:
    """Return what one audit finds in one app of its folder.

    The folder's `world.py` may have `world()`, which starts what the app needs and yields the
    environment that leads there, and `OPTIONS`: by app name, fields of `ProveOptions`.
    """
    package = f"tests.prove_apps.{audit.replace('-', '_')}"
    has_world = (folder_of(audit) / "world.py").is_file()
    module = importlib.import_module(f"{package}.world") if has_world else None
    world = getattr(module, "world", _nothing)
    fields = getattr(module, "OPTIONS", {}).get(app, {})
    async with world() as environment:
        options = ProveOptions(
            **{
                "app": f"{package}.{app}:app",
                "directory": ROOT,
                "only": (audit,),
                "is_quick": is_quick,
                "profile": PROFILES["docker"],
                "environment": environment,
                **fields,
            }
        )
        report = await prove(options)
    (finding,) = report.findings
    return finding


@asynccontextmanager
async def _nothing() -> AsyncIterator[dict[str, str]]:
    yield {}
