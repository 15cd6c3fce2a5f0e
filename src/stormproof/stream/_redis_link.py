"""One connection to Redis: made when it is needed, thrown away at the first doubt."""

import asyncio
import hashlib
import math
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from ._attempts import LinkLost

_NOT_NOW = (BusyLoadingError, ClusterDownError, ReadOnlyError, TryAgainError)


class Script:
    """A script and the name under which a server remembers it."""

    def __init__(self, text: str) -> None:
        self.text = text
        # The name that EVALSHA asks for; nothing is protected by it.
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Links:
    """Makes links to one server.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`, as redis-py has it.
        answer_within: Seconds after which a server that gives no answer is taken for lost.
    """

    def __init__(self, url: str, answer_within: float) -> None:
        self._answer_within = answer_within
        # The pool alone knows how to read a URL; it never holds a connection. redis-py's own
        # retries are off: they would send an append twice.
        self._pool: ConnectionPool = ConnectionPool.from_url(
            url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=answer_within,
            health_check_interval=0,
        )

    def make(self) -> "Link":
        """Return a link that is not connected yet."""
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py's
        return Link(connection, self._answer_within)


class Link:
    """One connection, for one task at a time.

    Attributes:
        process: Which server process it is connected to; "" when the server does not tell.
        is_fresh: Whether it was connected anew since this was last set to False.
    """

    def __init__(self, connection: AbstractConnection, answer_within: float) -> None:
        self._answer_within = answer_within
        self._connection = connection
        self.process = ""
        self.is_fresh = True

    async def connect(self) -> None:
        """Connect if it is not connected, and learn which process answers.

        Raises:
            LinkLost: No server answers in time.
        """
        if self._connection.is_connected:
            return
        self.is_fresh = True
        try:
            async with asyncio.timeout(self._answer_within):
                await self._connection.connect()  # type: ignore[no-untyped-call]  # redis-py's
                self.process = await self._learn_process()
        except BaseException as error:
            await self.drop()
            if isinstance(error, RedisError | OSError):
                raise LinkLost(str(error) or type(error).__name__) from error
            raise

    async def ask(self, *command: Any, wait: float = 0.0) -> Any:
        """Send a command, which the server may hold for `wait` seconds, and return the answer.

        Waits so long and `answer_within` more. Cancelled or late: the connection is dropped, so
        that its answer is never taken for the next command's.

        Raises:
            LinkLost: There is no answer.
            ResponseError: The server refused the command.
        """
        await self.connect()
        within = wait + self._answer_within
        try:
            async with asyncio.timeout(within):
                await self._connection.send_command(*command, check_health=False)
                return await self._connection.read_response(timeout=math.inf)
        except _NOT_NOW as error:
            await self.drop()
            raise LinkLost(str(error)) from error
        except ResponseError:
            raise
        except BaseException as error:
            await self.drop()
            if isinstance(error, RedisError | OSError):
                raise LinkLost(str(error) or f"no answer within {within:g} s") from error
            raise

    async def run(self, script: Script, keys: tuple[str, ...], *arguments: Any) -> Any:
        """Run a script in the server; waits and raises as `ask`."""
        rest = (len(keys), *keys, *arguments)
        try:
            return await self.ask("EVALSHA", script.digest, *rest)
        except NoScriptError:
            return await self.ask("EVAL", script.text, *rest)

    async def drop(self) -> None:
        """Close the connection at once."""
        await self._connection.disconnect(nowait=True)

    async def _learn_process(self) -> str:
        await self._connection.send_command("INFO", "server", check_health=False)
        try:
            told: bytes = await self._connection.read_response(timeout=math.inf)
        except NoPermissionError:
            return ""
        facts = dict(line.split(b":", 1) for line in told.splitlines() if b":" in line)
        return facts.get(b"run_id", b"").decode()
