"""A stream of rows: page by page by key, each page in a short session of its own."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from sqlalchemy import Result, Row, Select, inspect
from sqlalchemy.orm import InstanceState

from stormproof.errors import InvalidSetting, NotPageable

from ._keys import Key, key_of
from ._session import DatabaseSession

T = TypeVar("T")

_KEY_NAME = "stormproof_key_{}"


class RowStream(Generic[T]):
    """The rows of a query, read page by page; got from `Database.stream`.

    `async for row in stream` gives the rows one by one, `pages()` a list for each page,
    `mappings()` a list of mappings for each page. Each iteration reads anew from the start.

    A page is read to its end in a read session of its own before its first row is given out:
    while the consumer thinks, sends or stalls, no connection is held. It waits for a connection
    as `Database.read_session` does, once for each page. Left early or cancelled: nothing is
    held, and nothing has to be closed.

    The pages are not one snapshot. A row that is there all the time and whose key does not
    change comes exactly once; one that is inserted or moved meanwhile comes if its key is after
    the page just read. What is not loaded with its row cannot be loaded later.

    Raises (while iterating):
        What a read session raises: PoolTimeout, DeadlineExceeded, DatabaseUnavailable.

    versionadded: 0.1
    """

    def __init__(
        self,
        query: Select[Any],
        *,
        page: int,
        read_session: Callable[[], AbstractAsyncContextManager[DatabaseSession]],
    ) -> None:
        if page < 1:
            raise InvalidSetting(f"stream(page={page!r}) must be a number of rows, 1 or more")
        self._key = key = key_of(query)
        marks = (
            column.label(_KEY_NAME.format(number)) for number, column in enumerate(key.columns)
        )
        self._query = query.add_columns(*marks).order_by(None).order_by(*key.ordering()).limit(page)
        self._page = page
        self._read_session = read_session

    def __aiter__(self) -> AsyncIterator[T]:
        return self._rows()

    async def _rows(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for row in page:
                yield row

    async def pages(self) -> AsyncIterator[Sequence[T]]:
        """Give the rows in lists, one for each page; none of them is empty."""
        after: Sequence[Any] | None = None
        while True:
            rows, last = await self._read(after)
            if not rows:
                return
            if last == after:
                raise NotPageable(
                    f"the page after {_described(self._key, last)} ends where it begins: "
                    "the database compares this value otherwise than it gives it out; "
                    "order the query by another column"
                )
            yield rows
            if len(rows) < self._page:
                return
            after = last

    async def mappings(self) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
        """Give the rows as mappings, in lists: what `RowsResponse` wants.

        A row of columns is a mapping from their names; of an entity, from its loaded columns.
        """
        name = str(self._query.column_descriptions[0]["name"])
        async for page in self.pages():
            yield [_as_mapping(row, name) for row in page]

    async def _read(self, after: Sequence[Any] | None) -> tuple[Sequence[T], Sequence[Any]]:
        query = self._query if after is None else self._query.where(self._key.after(after))
        async with self._read_session() as session:
            result = (await session.execute(query)).freeze()
        keys = _columns(result(), last=len(self._key.columns)).all()
        rows = _columns(result(), but_last=len(self._key.columns))
        taken: Sequence[Any] = rows.scalars().all() if len(rows.keys()) == 1 else rows.all()
        return taken, tuple(keys[-1]) if keys else ()


def _columns(result: Result[Any], *, last: int = 0, but_last: int = 0) -> Result[Any]:
    width = len(result.keys())
    return result.columns(*range(width - last, width) if last else range(width - but_last))


def _as_mapping(row: Any, name: str) -> Mapping[str, Any]:
    """Return a row of columns by their names, an entity by those of its loaded columns."""
    if isinstance(row, Row):
        return dict(row._mapping)
    state = inspect(row, raiseerr=False)
    if not isinstance(state, InstanceState):
        return {name: row}
    columns = state.mapper.column_attrs.keys()
    return {key: state.dict[key] for key in columns if key in state.dict}


def _described(key: Key, values: Sequence[Any]) -> str:
    marks = zip(key.columns, values, strict=True)
    return ", ".join(f"{column} = {value!r}" for column, value in marks)
