"""The limit of open files is raised where a load needs more sockets."""

import asyncio
import resource
import socket
from collections.abc import Iterator

import pytest

from stormproof.prove.load import ask
from stormproof.prove.load._descriptors import allow_connections

from .servers import GET, new_ledger


@pytest.fixture
def hard() -> Iterator[int]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_limit_is_raised_as_far_as_needed_and_allowed(hard: int) -> None:
    allow_connections(10)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300
    allow_connections(100)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 356
    allow_connections(10**9)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard


async def test_request_without_a_descriptor_is_unsent(hard: int) -> None:
    """The generator's own want is not put down to the server."""
    ledger = new_ledger()
    with socket.create_server(("127.0.0.1", 0), backlog=500) as listener:
        port = listener.getsockname()[1]
        await asyncio.gather(
            *(ask(port, GET, timeout=0.3, ledger=ledger, group="g") for _ in range(350))
        )
    unsent = [row for row in ledger.rows if row.ended == "unsent"]
    assert len(ledger.rows) == 350
    assert 50 < len(unsent) < 350
    assert all("open files" in row.note for row in unsent)
    assert all(row.last_byte_at is None for row in unsent)
