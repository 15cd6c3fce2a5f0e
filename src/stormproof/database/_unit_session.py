"""SQLAlchemy's session inside of ours: it knows whether its end is one COMMIT and no more."""

from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.orm import Session


class UnitSession(Session):
    """A session that remembers its connection, and whether it has flushed.

    SQLAlchemy's commit of a session costs a tenth of a small unit of work: it prepares, flushes,
    looks for savepoints and expires. A unit that only executed statements needs none of it.
    """

    _begun: Connection | None = None
    _has_flushed = False
    _has_several = False

    def plain_connection(self) -> Connection | None:
        """Return the connection whose COMMIT stores all of this session, None when more is needed.

        Objects were changed or flushed, a savepoint is open, the session has joined somebody's
        transaction, or a listener waits for the commit.
        """
        connection = self._begun
        if connection is None or self._has_flushed or self._has_several or not self._is_clean():
            return None
        if connection.closed or not connection.in_transaction():
            return None
        if connection.in_nested_transaction() or isinstance(self.bind, Connection):
            return None
        listeners: Any = self.dispatch
        return None if listeners.before_commit or listeners.after_commit else connection


@event.listens_for(UnitSession, "after_begin")
def _note_connection(session: UnitSession, _: object, connection: Connection) -> None:
    before = session._begun
    if before is not None and before is not connection and before.in_transaction():
        session._has_several = True
    session._begun = connection


@event.listens_for(UnitSession, "before_flush")
def _note_flush(session: UnitSession, *_: object) -> None:
    session._has_flushed = True
