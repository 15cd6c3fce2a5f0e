"""Rows page by page by key: all of them once, in order, and no connection held between pages."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import ForeignKey, Index, Select, delete, func, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column

from stormproof import RowsResponse
from stormproof.database import Database, RowStream
from stormproof.database._keys import key_of
from stormproof.errors import InvalidSetting, NotPageable, PoolTimeout

from .model import Item, count

OLD = text("year < 0")


class Model(DeclarativeBase):
    pass


class Author(Model):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    nickname: Mapped[str | None] = mapped_column(unique=True)


class Book(Model):
    __tablename__ = "books"
    __table_args__ = (
        Index("shelf", "shelf", "place", unique=True),
        Index(
            "lent",
            "year",
            unique=True,
            sqlite_where=text("year < 0"),
            postgresql_where=text("year < 0"),
        ),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"))
    year: Mapped[int]
    shelf: Mapped[int]
    place: Mapped[int]
    sold_at: Mapped[datetime | None]


class Loan(Model):
    __tablename__ = "loans"
    book_id: Mapped[int] = mapped_column(ForeignKey("books.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
async def stocked(database: Database) -> AsyncIterator[Database]:
    """100 items whose names repeat in no order of their ids."""
    async with database.session() as session:
        session.add_all(Item(id=i, name=f"{i * 37 % 100:02}") for i in range(100))
    yield database
    assert database.statistics().in_use == 0


async def test_every_row_comes_once_and_in_order(stocked: Database) -> None:
    for page in (1, 7, 50, 99, 100, 101):
        numbers = [item.id async for item in stocked.stream(select(Item), page=page)]
        assert numbers == list(range(100))
        by_name = select(Item.name).order_by(Item.name.desc())
        names = [name async for name in stocked.stream(by_name, page=page)]
        assert names == [f"{i:02}" for i in reversed(range(100))]


async def test_pages_are_as_long_as_asked_for(stocked: Database) -> None:
    pages = [len(page) async for page in stocked.stream(select(Item.id), page=30).pages()]
    assert pages == [30, 30, 30, 10]


async def test_a_query_without_rows_has_no_page(stocked: Database) -> None:
    stream = stocked.stream(select(Item).where(Item.id < 0))
    assert [page async for page in stream.pages()] == []


@pytest.mark.parametrize(
    ("query", "row", "mapping"),
    [
        (select(Item), "37", {"id": 1, "name": "37"}),
        (select(Item.id), 1, {"id": 1}),
        (select(Item.name, Item.id), ("37", 1), {"name": "37", "id": 1}),
        (select(Item, Item.id), None, None),
    ],
)
async def test_rows_are_what_the_query_selects(
    stocked: Database, query: Select[Any], row: Any, mapping: Any
) -> None:
    stream = stocked.stream(query.where(Item.id == 1))
    found = [one async for one in stream]
    if mapping is None:
        assert (found[0].Item.name, found[0].id, len(found[0])) == ("37", 1, 2)
    else:
        assert [getattr(one, "name", one) if row == "37" else one for one in found] == [row]
        assert [page async for page in stream.mappings()] == [[mapping]]


async def test_each_iteration_starts_anew(stocked: Database) -> None:
    stream = stocked.stream(select(Item.id), page=60)
    assert [one async for one in stream] == [one async for one in stream]


async def test_no_connection_is_held_while_the_consumer_thinks(stocked: Database) -> None:
    """Twenty readers stop in the middle of their pages; the pool of two stays free."""
    async with AsyncExitStack() as stack:
        streams = [aiter(stocked.stream(select(Item), page=10)) for _ in range(20)]
        for stream in streams:
            await stack.enter_async_context(aclosing(stream))  # type: ignore[type-var]
            for _ in range(15):
                await anext(stream)
        assert stocked.statistics().in_use == 0
        async with stocked.session() as session:
            assert await count(session) == 100


async def test_a_page_waits_for_a_connection_within_bounds(stocked: Database) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await count(await stack.enter_async_context(stocked.read_session()))
        with pytest.raises(PoolTimeout):
            await anext(aiter(stocked.stream(select(Item))))


async def test_cancelled_at_any_step_nothing_is_held(stocked: Database) -> None:
    async def read() -> None:
        async for _ in stocked.stream(select(Item), page=40):
            await asyncio.sleep(0)

    for steps in range(0, 60, 3):
        task = asyncio.create_task(read())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert stocked.statistics().in_use == 0


async def test_what_changes_between_the_pages_neither_repeats_nor_hides_a_row(
    stocked: Database,
) -> None:
    seen: Counter[int] = Counter()
    async for page in stocked.stream(select(Item.id), page=10).pages():
        seen.update(page)
        async with stocked.session() as session:
            await session.execute(delete(Item).where(Item.id == page[-1]))
            session.add(Item(id=-page[-1] - 1, name=f"before {page[-1]}"))
    assert seen == Counter(range(100))


async def test_a_reader_of_a_stream_cannot_write(stocked: Database) -> None:
    adding = insert(Item).values(id=200, name="x").returning(Item.id)
    with pytest.raises(NotPageable, match="only a select"):
        stocked.stream(adding)  # type: ignore[call-overload]


async def test_rows_can_be_exported(stocked: Database) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    rows = stocked.stream(select(Item).order_by(Item.name), page=30).mappings()
    response = RowsResponse(rows, format="csv", columns=["name"])
    await response({"type": "http", "method": "GET", "path": "/"}, receive, send)
    body = b"".join(message.get("body", b"") for message in sent).decode().split()
    assert body == ["name", *(f"{i:02}" for i in range(100))]


@pytest.fixture
async def library(database: Database) -> Database:
    async with database.engine.begin() as connection:
        await connection.run_sync(Model.metadata.create_all)
    async with database.session() as session:
        session.add_all(Author(id=i, email=f"{i}@x", nickname=None) for i in range(5))
        await session.flush()
        noon = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
        for i in range(60):
            year, sold_at = 1900 + i % 7, noon + timedelta(microseconds=i)
            session.add(
                Book(id=i, author_id=i % 5, year=year, shelf=i % 3, place=i, sold_at=sold_at)
            )
        await session.flush()
        session.add_all(Loan(book_id=i, number=n) for i in range(0, 60, 2) for n in range(3))
    return database


Other = aliased(Book)
PAGEABLE = {
    "its order leaves rows equal": select(Book.id).order_by(Book.year),
    "two directions": select(Book.id).order_by(Book.year.desc(), Book.shelf),
    "three directions": select(Book).order_by(Book.year, Book.shelf.desc(), Book.place),
    "ordered by what is not selected": select(Book.year).order_by(Book.place.desc()),
    "many to one": select(Book.id, Author.email).join(Author).order_by(Book.year.desc()),
    "one to many": select(Author.id, Book.id).join(Book).order_by(Author.email),
    "optional one to one": select(Book, Author).outerjoin(Author, Author.id == Book.author_id),
    "two keys of one table": select(Book.id, Other.id).join(Other, Other.year == Book.year),
    "key of two columns": select(Loan).order_by(Loan.number.desc()),
    "one column of it is fixed": select(Loan).where(Loan.book_id == 4).order_by(Loan.number),
    "joined by the WHERE": select(Book.id, Author.id).where(Author.id == Book.author_id),
    "nulls last": select(Book.id).order_by(Book.year.desc().nulls_last()),
    "a subquery in a column": select(
        Author.id, select(func.count(Book.id)).where(Book.author_id == Author.id).scalar_subquery()
    ),
}


async def test_pages_hold_the_rows_of_the_whole_query(library: Database) -> None:
    for kind, query in PAGEABLE.items():
        async with library.read_session() as session:
            whole = (await session.execute(query)).all()
        assert len(whole) > 0, kind
        for page in (1, 4, 1000):
            stream: RowStream[Any] = library.stream(query, page=page)
            is_wide = len(query.column_descriptions) > 1
            paged = [row if is_wide else (row,) async for row in stream]
            assert sorted(ids(paged)) == sorted(ids(whole)), kind
            if len(query._order_by_clauses) == len(key_of(query).columns):
                assert ids(paged) == ids(whole), kind


def ids(rows: Iterable[Any]) -> list[tuple[Any, ...]]:
    return [tuple(getattr(one, "id", getattr(one, "number", one)) for one in row) for row in rows]


@pytest.mark.parametrize(
    ("query", "added"),
    [
        (select(Author).order_by(Author.email), 0),
        (select(Author).order_by(Author.id), 0),
        (select(Book).order_by(Book.shelf, Book.place), 0),
        (select(Book).order_by(Book.year), 1),
        (select(Book, Author).join(Author).order_by(Book.id), 0),
        (select(Author, Book).join(Book).order_by(Author.id), 1),
        (select(Loan).where(Loan.book_id == 4).order_by(Loan.number), 0),
        (select(Loan).where(Loan.book_id > 4).order_by(Loan.number), 2),
        (select(Author).order_by(Author.email).where(Author.nickname == "x"), 0),
    ],
)
def test_the_key_is_the_order_and_what_it_lacks(query: Select[Any], added: int) -> None:
    assert len(key_of(query).columns) == len(query._order_by_clauses) + added


REFUSED = {
    "may be NULL": select(Book).order_by(Book.sold_at),
    "no column of a table": select(Book).order_by(func.lower(Author.email)),
    "ordered by year, which": select(Book).order_by("year"),
    "LIMIT or OFFSET": select(Book).limit(10),
    "DISTINCT": select(Book.year).distinct(),
    "GROUP BY": select(Book.year).group_by(Book.year),
    "FOR UPDATE": select(Book).with_for_update(),
    "an aggregate": select(func.count(Book.id)),
    "a window function": select(Book.id, func.row_number().over(order_by=Book.id)),
    "reads no table": select(func.now()),
    "no table;": select(select(Book.id).subquery()),
    "FULL JOIN": select(Book, Author).join(Author, full=True),
    "outer-joined": select(Author, Book).outerjoin(Book),
    "which may be NULL": select(Book, Author).outerjoin(Author).order_by(Author.email),
}


@pytest.mark.parametrize(("reason", "query"), REFUSED.items())
def test_what_has_no_key_is_refused_with_the_reason(reason: str, query: Select[Any]) -> None:
    with pytest.raises(NotPageable, match=reason) as caught:
        key_of(query)
    assert caught.value.code == "SP410"


def test_a_page_has_at_least_one_row(url: str) -> None:
    with pytest.raises(InvalidSetting, match=r"stream\(page=0\)"):
        Database(url).stream(select(Item), page=0)
