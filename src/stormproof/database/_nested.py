"""The blocks of `session.begin()` and `begin_nested()`, with the promises of the session."""

from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncSessionTransaction

from ._turn import Turn
from ._waiting import to_the_end

if TYPE_CHECKING:
    from ._session import DatabaseSession


class Block(AsyncSessionTransaction):
    """A block that commits as the session does, or a savepoint that is undone alone."""

    __slots__ = ("_callbacks_before",)

    session: "DatabaseSession"

    async def start(self, is_ctxmanager: bool = False) -> AsyncSessionTransaction:
        with Turn(self.session):
            self._callbacks_before = len(self.session._callbacks)
            # SQLAlchemy's own block would end with a COMMIT without our promises.
            return await super().start(is_ctxmanager and self.nested)

    async def commit(self) -> None:
        if not self.nested:
            return await self.session.commit()
        with Turn(self.session):
            return await super().commit()

    async def rollback(self) -> None:
        if not self.nested:
            return await self.session.rollback()
        self._forget_callbacks()
        with self.session._held():
            return await to_the_end(super().rollback())

    async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if self.nested:
            if kind is not None:
                self._forget_callbacks()
            with self.session._held():
                return await super().__aexit__(kind, error, traceback)
        return await (self.session.commit() if kind is None else self.session.rollback())

    def _forget_callbacks(self) -> None:
        del self.session._callbacks[self._callbacks_before :]
