"""Commits: make the next ones fail, so that what the app answers then can be seen."""

from typing import Any

from ._holds import Hold, Holds
from ._requests import Requests

_WORDS = "the COMMIT failed, because stormproof prove made it fail; nothing was stored"


class Commits:
    """Makes the COMMIT of transactions that wrote fail while it is on.

    The driver's transaction is rolled back and its `OperationalError` raised where the COMMIT
    would have been sent, so that SQLAlchemy treats it like any other that the database refuses.
    """

    def __init__(self, requests: Requests, holds: Holds) -> None:
        self._requests = requests
        self._holds = holds
        self._is_on = False

    def switch(self, *, on: bool) -> None:
        """Let COMMITs fail from now on, or no longer."""
        if on:
            for engine in self._holds.each_engine():
                self._patch(type(engine.dialect))
        self._is_on = on

    def _patch(self, dialect_class: Any) -> None:
        """Wrap the `do_commit` that this class of dialect uses, wherever it is written."""
        owner = next(kind for kind in dialect_class.__mro__ if "do_commit" in vars(kind))
        original = vars(owner)["do_commit"]
        if getattr(original, "is_stormproof", False):
            return
        commits = self

        def do_commit(self: Any, connection: Any) -> None:
            hold = commits._failing(connection)
            if hold is None:
                original(self, connection)
                return
            self.do_rollback(connection)
            commits._tell(hold)
            raise self.loaded_dbapi.OperationalError(_WORDS)

        do_commit.is_stormproof = True  # type: ignore[attr-defined]
        owner.do_commit = do_commit

    def _failing(self, connection: Any) -> Hold | None:
        if not self._is_on:
            return None
        hold = self._holds.of(connection)
        if hold is None or not hold.wrote_now or _is_autocommit(connection):
            return None
        return hold

    def _tell(self, hold: Hold) -> None:
        arrival = hold.arrival
        route, number = self._requests.where()
        if arrival is not None:
            route, number = self._requests.name(arrival), arrival.id
        facts = {"id": number, "route": route, "wrote": hold.wrote_now}
        self._requests.wire.emit("commit-failed", facts)


def _is_autocommit(connection: Any) -> bool:
    """Whether each statement was committed by itself, so that nothing could be undone."""
    driver = connection.driver_connection
    if hasattr(driver, "in_transaction") and not callable(driver.in_transaction):
        return not driver.in_transaction  # SQLite, also where the app begins by a statement
    return bool(getattr(connection.dbapi_connection, "autocommit", False) is True)
