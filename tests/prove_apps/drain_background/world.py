"""A folder for notes, and for the apps that write there a scenario that looks them up."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_NOTES = Path(__file__).with_name("notes.toml")

OPTIONS = {app: {"scenario": _NOTES} for app in ("defect_unseen", "sound_kept")}


@asynccontextmanager
async def world() -> AsyncIterator[dict[str, str]]:
    with TemporaryDirectory() as folder:
        yield {"NOTES": folder}
