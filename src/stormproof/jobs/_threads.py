"""Sessions in threads: statements in the session's turn, and what to call after its COMMIT."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import count
from typing import Any

from pgqueuer.ports.driver import SyncDriver
from sqlalchemy import TextClause, event, text
from sqlalchemy.orm import Session

from ._driver import Rows

_PLACE = re.compile(r"\$(\d+)|\?")
_CALLED = "stormproof.jobs.after_commit"


class ThreadDriver(SyncDriver):
    """Runs the engine's SQL in the transaction of a session that is used in a thread."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        """Run one statement and return its rows."""
        return in_turn(self._session, query, args)


def in_turn(session: Session, statement: str, parameters: Sequence[Any]) -> Rows:
    """Run a statement with `?` or `$1` places through the session, and return its rows.

    Not on `session.connection()`: there nobody sees that the session is in the middle of a
    statement, so a request that is cancelled would roll back beneath it.
    """
    values = {f"p{number}": value for number, value in enumerate(parameters, 1)}
    result: Any = session.execute(_named(statement), values)
    return [dict(row) for row in result.mappings()] if result.returns_rows else []


def after_commit(session: Session, call: Callable[[], None]) -> None:
    """Call `call()` after each COMMIT of the session, in the thread that commits.

    Said again, it is called once all the same; the end of a savepoint calls it, too.
    """
    called: set[Callable[[], None]] = session.info.setdefault(_CALLED, set())
    if call not in called:
        called.add(call)
        event.listen(session, "after_commit", lambda _: call())


@lru_cache(maxsize=64)
def _named(statement: str) -> TextClause:
    numbers = count(1)
    # A blank behind it, because text() reads `:p1::int` as a parameter `p`.
    return text(_PLACE.sub(lambda place: f":p{place[1] or next(numbers)} ", statement))
