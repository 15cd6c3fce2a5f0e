"""Addresses: a connection to the first one of a host that answers."""

import asyncio
import contextlib
import ipaddress
import itertools
import socket
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

P = TypeVar("P", bound=asyncio.Protocol)
Attempt: TypeAlias = asyncio.Task[tuple[asyncio.Transport, P]]

_HEAD_START = 0.25


async def connected(protocol: Callable[[], P], host: str, port: int) -> P:
    """Return the protocol of a connection to `host`, by the first address that answers.

    Each address has a head start of 0.25 s before the next is tried beside it. Cancelled, or
    when none answers: nothing stays open.

    Raises:
        OSError: No address could be connected to; the message has the reason of each.

    Source: RFC 8305 (Happy Eyeballs), 5.
    """
    addresses = await addresses_of(host, port)
    if len(addresses) == 1:
        return (await _connect(protocol, addresses[0], port))[1]
    attempts: list[Attempt[P]] = []
    try:
        winner = await _race(attempts, protocol, addresses, port)
        await _reaped([attempt for attempt in attempts if attempt is not winner])
    except BaseException:
        await _reaped(attempts)
        raise
    return winner.result()[1]


async def addresses_of(host: str, port: int) -> Sequence[str]:
    """Return the addresses of `host`, the two families in turns."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host.partition("%")[0])
        return [host]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families = [
        [str(address[0]) for family, *_, address in found if family is wanted]
        for wanted in (socket.AF_INET6, socket.AF_INET)
    ]
    in_turns = itertools.chain.from_iterable(itertools.zip_longest(*families))
    return list(dict.fromkeys(filter(None, in_turns)))


async def _race(
    attempts: list[Attempt[P]], protocol: Callable[[], P], addresses: Sequence[str], port: int
) -> Attempt[P]:
    """Return the first attempt that connects; all that were begun are added to `attempts`."""
    for number, address in enumerate(addresses, start=1):
        attempts.append(asyncio.create_task(_connect(protocol, address, port)))
        head_start = _HEAD_START if number < len(addresses) else None
        pending = {attempt for attempt in attempts if not attempt.done()}
        while pending:
            done, pending = await asyncio.wait(
                pending, timeout=head_start, return_when=asyncio.FIRST_COMPLETED
            )
            for attempt in done:
                if attempt.exception() is None:
                    return attempt
            if head_start is not None:
                break
    reasons = zip(addresses, attempts, strict=True)
    raise OSError(
        "; ".join(f"{address}: {attempt.exception()}" for address, attempt in reasons)
        or "its name has no address"
    )


async def _reaped(attempts: Sequence[Attempt[P]]) -> None:
    """Cancel and await `attempts`, and close what they connected."""
    for attempt in attempts:
        attempt.cancel()
        attempt.add_done_callback(_close)
    if attempts:
        await asyncio.wait(attempts)


def _close(attempt: Attempt[P]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result()[0].abort()


async def _connect(
    protocol: Callable[[], P], address: str, port: int
) -> tuple[asyncio.Transport, P]:
    return await asyncio.get_running_loop().create_connection(protocol, address, port)
