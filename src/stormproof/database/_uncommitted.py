"""Uncommitted work: what a session has changed since its last commit, asked of the database."""

from typing import TYPE_CHECKING

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from stormproof.errors import UncommittedWork

if TYPE_CHECKING:
    from ._session import DatabaseSession

# NULL as long as the transaction has changed nothing and locked no row.
_CHANGES = text("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")


async def refuse_uncommitted(session: "DatabaseSession") -> None:
    """Raise UncommittedWork when giving the connection back would lose or commit something."""
    found = await session.run_sync(_found)
    if found is not None:
        raise UncommittedWork(
            f"release() on {session.place} with {found} not committed; "
            "`await session.commit()` before it, or release before the first change"
        )


def _found(session: Session) -> str | None:
    planned = [*session.new, *session.deleted, *filter(session.is_modified, session.dirty)]
    if planned:
        return f"{len(planned)} changed objects"
    if not session.in_transaction():
        return None
    if session.in_nested_transaction():
        return "an open savepoint"
    return _changed(session.connection())


def _changed(connection: Connection) -> str | None:
    if connection.dialect.name == "sqlite":
        from ._sqlite import has_changed

        return "changes" if has_changed(connection) else None
    if connection.get_execution_options().get("postgresql_readonly"):
        return None
    return "changes or row locks" if connection.execute(_CHANGES).scalar_one() else None
