"""The start: the first connect, which is repeated for a while, and tells what is wrong."""

import asyncio
import logging

from sqlalchemy.ext.asyncio import AsyncEngine

from stormproof.errors import DatabaseUnavailable, StartFailed, StormproofError

from ._faults import first_line

_log = logging.getLogger("stormproof")

_FIRST_PAUSE = 0.1


async def connect(engine: AsyncEngine, *, patience: float, name: str, place: str) -> None:
    """Connect once; try again for `patience` seconds while the server cannot be reached.

    Raises:
        DatabaseUnavailable: The server cannot be reached or refused us.
        StartFailed: It was reached, but does not work with these settings.
    """
    loop = asyncio.get_running_loop()
    give_up_at, pause = loop.time() + patience, _FIRST_PAUSE
    while True:
        try:
            return await _connect_once(engine, place)
        except DatabaseUnavailable as error:
            left = give_up_at - loop.time()
            if left <= 0:
                raise
            _log.warning("%s: %s; trying again for %.1f s", name, error, left)
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 2, 1.0)


async def _connect_once(engine: AsyncEngine, place: str) -> None:
    try:
        async with engine.connect() as connection:
            await connection.exec_driver_sql("SELECT 1")
    except BaseException as error:
        await engine.dispose()
        if isinstance(error, StormproofError) or not isinstance(error, Exception):
            raise
        raise StartFailed(
            f"the database at {place} does not work with these settings: "
            f"{first_line(error)}; check the URL and engine_options"
        ) from error
