"""The statement timeout: how PostgreSQL is told, transaction by transaction, what time is left."""

from stormproof._core.deadline import current_deadline, remaining

LEARN = "SELECT setting::bigint FROM pg_settings WHERE name = 'statement_timeout'"
"""Asks, before any transaction, for what role and database have set, in milliseconds."""

# It never raises what the transaction has set for itself.
_RENEW = (
    "SELECT set_config('statement_timeout', '{ms}ms', true) "
    "WHERE current_setting('statement_timeout') = '0' "
    "OR current_setting('statement_timeout')::interval > interval '{ms} milliseconds'"
)
_TIGHT = 2.0
"""Seconds left under which each statement's timeout is kept exact."""


class StatementTimeout:
    """What one connection's transaction has as its `statement_timeout`.

    Args:
        allowed_ms: What role or database have set, in milliseconds, 0 for nothing; ours is never
            longer. None for not known: then the server compares, each time.
    """

    __slots__ = ("_allowed_ms", "_ms")

    def __init__(self, allowed_ms: int | None) -> None:
        self._allowed_ms = allowed_ms
        self._ms: int | None = None

    def begun(self) -> str:
        """Return what goes with BEGIN, behind its semicolon: "" when there is nothing to set."""
        if current_deadline() is None:
            self._ms = None
            return ""
        left = remaining()
        self._ms = None if left is None else statement_timeout_ms(left)
        if self._ms is None:
            return ""
        if self._allowed_ms is None:
            return " " + _RENEW.format(ms=self._ms)
        if 0 < self._allowed_ms <= self._ms:
            return ""
        return f" SET LOCAL statement_timeout = {self._ms}"

    def renewal(self) -> str | None:
        """Return the statement that shortens the timeout to what is left now, if it is time to."""
        left = remaining()
        if left is None or left <= 0 or self._ms is None:
            return None
        due = statement_timeout_ms(left)
        slack = (left * 1000 - due) / 2 if left < _TIGHT else due / 5
        if self._ms <= due + slack:
            return None
        self._ms = due
        return _RENEW.format(ms=due)


def statement_timeout_ms(left: float) -> int:
    """Return the timeout of a statement when `left` seconds remain: enough less for the answer.

    20 ms and a tenth of what is left, at most 100 ms: room for the loop's lag and a ROLLBACK.
    """
    return max(1, int((left - min(0.1, 0.02 + left / 10)) * 1000))
