"""The autocommit session: each statement takes a connection, is committed, and gives it back."""

from typing import Any, NoReturn

from stormproof.errors import NoTransaction

from ._session import DatabaseSession


class AutocommitSession(DatabaseSession):
    """A session for who lives long: it never holds a connection between two statements.

    What a statement (or `flush`) changed is committed when it returns, and the callbacks of
    `on_commit` have run; there is nothing to roll back afterwards. Loaded objects stay usable.

    Raises, beside what every session raises:
        NoTransaction: `stream`, `connection` and `begin` would have to hold a connection.
    """

    commits_each_statement = True

    def begin(self) -> NoReturn:
        """Refuse: there is no transaction that lasts."""
        raise self._refusal("begin()")

    def begin_nested(self) -> NoReturn:
        """Refuse: there is no transaction that lasts."""
        raise self._refusal("begin_nested()")

    async def connection(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: it would be given back before it is used."""
        raise self._refusal("connection()")

    async def stream(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: its rows come from a connection that is held."""
        raise self._refusal("stream()")

    def _refusal(self, what: str) -> NoTransaction:
        return NoTransaction(
            f"{what} was called on an autocommit session of {self.place}, which holds no "
            "connection between statements; use `async with database.session()`"
        )
