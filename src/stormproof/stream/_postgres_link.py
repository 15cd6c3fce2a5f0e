"""One connection to PostgreSQL: made when it is needed, thrown away at the first doubt."""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from ._attempts import LinkLost

_DRIVER = re.compile(r"^(postgres(?:ql)?)\+\w+:")
# Connection exceptions, the server stops or starts, too many connections, a standby; and the
# limits below: what waits for a lock or takes too long is tried again.
_LOST_CLASS = "08"
_LOST_STATES = frozenset({"57P01", "57P02", "57P03", "53300", "25006", "55P03", "57014"})
# The last is what asyncpg says of a connection that the server has ended while it was idle.
_LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
# A function of ours sees what was committed while it waited only in this isolation; and what a
# reader has seen must survive a crash, also where a role commits asynchronously.
_SETTINGS = (
    "SET default_transaction_isolation = 'read committed'; "
    "SET lock_timeout = {ms}; SET statement_timeout = {ms}; SET tcp_user_timeout = {ms}; "
    "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; "
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') = 'off'"
)


class Link:
    """One connection, for one task at a time.

    Args:
        url: `postgresql://…`; a driver in it (`+asyncpg`) is left out.
        answer_within: Seconds after which a server that gives no answer is taken for lost.
        learn: Asks which database process this is.
        channel: What to listen to; None for nothing.
        heard: Called with the payload of a notification, and with None where some may be lost.

    Attributes:
        process: Which database process it is connected to; "" when it does not tell.
    """

    def __init__(
        self,
        url: str,
        *,
        answer_within: float,
        learn: str,
        channel: str | None = None,
        heard: Callable[[str | None], None] | None = None,
    ) -> None:
        self._url = _DRIVER.sub(r"\1:", url)
        self._answer_within = answer_within
        self._learn = learn
        self._channel = channel
        self._heard = heard
        self._connection: Any = None
        self.process = ""

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[Any]:
        """Run a statement in a transaction of its own, connecting first if need be.

        Waits `answer_within` seconds for each. Cancelled or late: the connection is dropped.

        Raises:
            LinkLost: There is no answer.
            PostgresError: The server refused the statement.
        """
        connection = await self.connected()
        return await self._guarded(connection.fetch(statement, *arguments))  # type: ignore[no-any-return]

    async def execute(self, script: str) -> None:
        """Run several statements in one transaction; as `fetch`."""
        connection = await self.connected()
        await self._guarded(connection.execute(script))

    async def connected(self) -> Any:
        """Return the connection, made anew when there is none; raises as `fetch`."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._guarded(self._connect())
        return self._connection

    def drop(self) -> None:
        """Close the connection at once, without a word to the server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        """Close the connection, politely if the server answers in time."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close(timeout=self._answer_within)
            except BaseException as error:
                connection.terminate()
                if not isinstance(error, (*_LOST, asyncpg.PostgresError)):
                    raise

    async def _connect(self) -> Any:
        connection = await asyncpg.connect(self._url, timeout=self._answer_within)
        try:
            await connection.execute(_SETTINGS.format(ms=int(self._answer_within * 1000)))
            self.process = await self._learn_process(connection)
            if self._channel is not None:
                await connection.add_listener(self._channel, self._hear)
                connection.add_termination_listener(self._hear_end)
                self._hear_end(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _learn_process(self, connection: Any) -> str:
        try:
            told: str = await connection.fetchval(self._learn)
        except (asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError):
            return ""
        return told

    async def _guarded(self, work: Any) -> Any:
        try:
            async with asyncio.timeout(self._answer_within):
                return await work
        except asyncpg.PostgresError as error:
            state = getattr(error, "sqlstate", None) or ""
            if state.startswith(_LOST_CLASS) or state in _LOST_STATES:
                self.drop()
                raise LinkLost(str(error)) from error
            raise
        except BaseException as error:
            self.drop()
            if isinstance(error, _LOST):
                raise LinkLost(str(error) or type(error).__name__) from error
            raise

    def _hear(self, connection: Any, pid: int, channel: str, payload: str) -> None:
        if self._heard is not None:
            self._heard(payload)

    def _hear_end(self, connection: Any) -> None:
        if self._heard is not None:
            self._heard(None)
