"""Starting the server, and knowing that it answers."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from stormproof.errors import CouldNotProve
from stormproof.prove._options import ProveOptions

from ._command import server_command
from ._failure import why_it_ended, why_it_is_silent
from ._port import free_port, is_free, listening_ports
from ._target import Target

_PORTS = 3
"""How many ports are tried when another process takes ours meanwhile."""

_POLL = 0.02
_ANSWER_LIMIT = 2.0
"""Seconds that one question waits; a parent may listen long before its worker can answer."""

_QUESTION = b"GET /stormproof-ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"

_AFTERMATH = 2.0
"""Seconds that the others have to follow the first process; else it went to the background."""


class _PortTaken(Exception):
    """Another process listens where the server should."""


@asynccontextmanager
async def started(
    options: ProveOptions, *, zero: float, environment: Mapping[str, str]
) -> AsyncIterator[Target]:
    """Run the server while the context is open; ready when it answers HTTP with any status.

    Waits at most `options.start_limit` for the first answer. At the end, and when cancelled,
    every process of it is killed and waited for, whatever it has done to get away; when prove
    itself is killed, they are killed as well. The terminal's Ctrl-C does not reach them.

    Args:
        options: The app, its server and where it is started.
        zero: When the recording began, by `time.monotonic()`.
        environment: Added to this process's environment and `options.environment`.

    Raises:
        CouldNotProve: It does not start, with its own last word, or it does not answer.
        InvalidSetting: The app or the command cannot be used.
    """
    if not options.directory.is_dir():
        raise CouldNotProve(f"there is no directory {str(options.directory)!r} to start the app in")
    merged = {**os.environ, **options.environment, **environment}
    target = await _on_a_free_port(options, zero, merged)
    try:
        yield target
    finally:
        await target.close()


async def _on_a_free_port(
    options: ProveOptions, zero: float, environment: Mapping[str, str]
) -> Target:
    """Start it; where another process was quicker to take the port, once more on another one."""
    for _ in range(_PORTS):
        target = Target(free_port(), zero)
        try:
            command = server_command(options, target.port)
            await target.start(command, options.directory, environment)
            await _answers(target, options)
        except _PortTaken:
            await target.close()
        except BaseException:
            await target.close()
            raise
        else:
            return target
    raise CouldNotProve(f"other processes took {_PORTS} ports before the server could; try again")


async def _answers(target: Target, options: ProveOptions) -> None:
    """Wait until the server itself answers on its port."""
    asking = asyncio.create_task(_ask(target))
    ending = asyncio.create_task(target.has_first_ended.wait())
    try:
        await asyncio.wait(
            (asking, ending), timeout=options.start_limit, return_when=asyncio.FIRST_COMPLETED
        )
        if asking.done():
            await asking
            return
    finally:
        for task in (asking, ending):
            task.cancel()
        await asyncio.gather(asking, ending, return_exceptions=True)
    if target.has_first_ended.is_set():
        has_all_ended = await target.ended(_AFTERMATH) is not None
        if has_all_ended and not is_free(target.port):
            raise _PortTaken
        raise CouldNotProve(why_it_ended(target, options, has_all_ended=has_all_ended))
    ports = listening_ports([target.leash_pid])
    raise CouldNotProve(why_it_is_silent(target, options, ports))


async def _ask(target: Target) -> None:
    while True:
        with suppress(OSError, EOFError, TimeoutError):
            async with asyncio.timeout(_ANSWER_LIMIT):
                if await _is_answered(target.port):
                    break
        await asyncio.sleep(_POLL)
    if target.port not in listening_ports([target.leash_pid]):
        # Somebody else has the port: ours will say so by its end.
        await asyncio.get_running_loop().create_future()


async def _is_answered(port: int) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_QUESTION)
        return (await reader.readexactly(5)).startswith(b"HTTP/")
    finally:
        writer.transport.abort()
