"""The key of a query: columns in whose order no two of its rows are equal, so it can be paged."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Index,
    Join,
    Select,
    Table,
    UniqueConstraint,
    and_,
    literal,
    or_,
)
from sqlalchemy import tuple_ as row_of
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    BooleanClauseList,
    Over,
    UnaryExpression,
)
from sqlalchemy.sql.expression import Alias, ColumnClause, FromClause, SelectBase
from sqlalchemy.sql.functions import count
from sqlalchemy.sql.functions import max as greatest
from sqlalchemy.sql.functions import min as least
from sqlalchemy.sql.functions import sum as total
from sqlalchemy.sql.selectable import NamedFromClause

from stormproof.errors import NotPageable

Column = ColumnElement[Any]

_PER_ROW = "write it as a subquery of a table with a key, or read it whole with read_session()"
_MODIFIERS = {operators.asc_op, operators.nulls_first_op, operators.nulls_last_op}


@dataclass(frozen=True, slots=True)
class Key:
    """The columns a query is ordered by, each with its direction."""

    columns: tuple[Column, ...]
    is_descending: tuple[bool, ...]

    def ordering(self) -> Iterator[Column]:
        """Return what to give to `order_by`."""
        for column, is_descending in zip(self.columns, self.is_descending, strict=True):
            yield column.desc() if is_descending else column

    def after(self, values: Sequence[Any]) -> ColumnElement[bool]:
        """Return the condition for the rows that come after the one with these `values`."""
        marks = [
            literal(value, column.type) for column, value in zip(self.columns, values, strict=True)
        ]
        if len(set(self.is_descending)) > 1:
            return self._after_mixed(marks)
        ours, theirs = row_of(*self.columns), row_of(*marks)
        if len(marks) == 1:
            ours, theirs = self.columns[0], marks[0]  # type: ignore[assignment]
        return ours < theirs if self.is_descending[0] else ours > theirs

    def _after_mixed(self, marks: Sequence[Column]) -> ColumnElement[bool]:
        """Compare column by column: rows can be compared as a whole in one direction only."""
        ways = []
        for at, mark in enumerate(marks):
            equal = [self.columns[before] == marks[before] for before in range(at)]
            column = self.columns[at]
            ways.append(and_(*equal, column < mark if self.is_descending[at] else column > mark))
        return or_(*ways)


def key_of(query: Select[Any]) -> Key:
    """Return the key to page `query` by: its ORDER BY, and what is missing of the primary keys.

    A column is *determined* when rows that agree on the key agree on it, too. From the key on,
    a unique constraint determines its table, and an equation its other side. When at the end
    every table is determined, no two rows have the same key.

    Source: closure of functional dependencies, C. Beeri and P. Bernstein, "Computational
    Problems Related to the Design of Normal Form Relational Schemas", ACM TODS 4 (1979).

    Raises:
        NotPageable: There is no such key, or no condition "after this row" for the query.
    """
    _check_shape(query)
    sources = _Sources(query)
    ordered = [_ordered_column(clause) for clause in query._order_by_clauses]
    for column, _ in ordered:
        sources.check_never_null(column)
    columns = [column for column, _ in ordered]
    for table in sources.undetermined(columns):
        if table in sources.undetermined(columns):
            columns.extend(sources.primary_key(table))
    if sources.undetermined(columns):
        raise NotPageable(
            f"no columns of {_names(sources.tables)} tell the rows of the query apart; {_PER_ROW}"
        )
    # What is added follows the direction of what is there, so that rows compare as a whole.
    last = ordered[-1][1] if ordered else False
    directions = [descending for _, descending in ordered]
    directions += [last] * (len(columns) - len(directions))
    return Key(tuple(columns), tuple(directions))


class _Sources:
    """The tables of a query, and which columns follow from which."""

    def __init__(self, query: Select[Any]) -> None:
        self.tables: list[FromClause] = []
        self._may_be_missing: set[FromClause] = set()
        self._follows: list[tuple[Column | None, Column]] = []
        for source in query.get_final_froms():
            self._add(source)
        if not self.tables:
            raise NotPageable(f"the query reads no table; {_PER_ROW}")
        self._add_equations(query.whereclause, self.tables)

    def primary_key(self, table: FromClause) -> list[Column]:
        """Return the columns that tell the rows of `table` apart."""
        if table in self._may_be_missing:
            raise NotPageable(
                f"{_names([table])} is outer-joined, and several of its rows belong to one row "
                f"before it: NULL has no place in a key; {_PER_ROW}"
            )
        key: list[Column] = list(table.primary_key)
        if not key:
            raise NotPageable(f"{_names([table])} has no primary key; {_PER_ROW}")
        return key

    def check_never_null(self, column: Column) -> None:
        """Raise NotPageable for a column that may be NULL: no row is "after" a NULL."""
        if self._is_nullable(column):
            raise NotPageable(
                f"the query is ordered by {column}, which may be NULL, and no row comes after a "
                f"NULL; order it by a column that is NOT NULL"
            )

    def undetermined(self, key: Iterable[Column]) -> list[FromClause]:
        """Return the tables whose rows may differ where all columns of `key` are equal."""
        known = set(key)
        whole: set[FromClause] = set()
        size = -1
        while size != len(known):
            size = len(known)
            known |= {then for given, then in self._follows if given is None or given in known}
            for table in self.tables:
                if table not in whole and any(one <= known for one in self._unique_sets(table)):
                    whole.add(table)
                    known |= set(table.c)
        return [table for table in self.tables if table not in whole]

    def _add(self, source: FromClause) -> list[FromClause]:
        """Add the tables of `source`, and return them."""
        if not isinstance(source, Join):
            if not isinstance(_table(source), Table):
                raise NotPageable(f"the query reads {_names([source])}, no table; {_PER_ROW}")
            self.tables.append(source)
            return [source]
        if source.full:
            raise NotPageable(f"a FULL JOIN has no key that is never NULL; {_PER_ROW}")
        left, right = self._add(source.left), self._add(source.right)
        if source.isouter:
            self._may_be_missing |= set(right)
        self._add_equations(source.onclause, right if source.isouter else left + right)
        return left + right

    def _add_equations(self, condition: Any, targets: list[FromClause]) -> None:
        """Note what equations say about columns of `targets`.

        Only of the right side of an outer join: where it is missing, its NULLs tell nothing
        about the left side.
        """
        for one in _conjunction(condition):
            if not isinstance(one, BinaryExpression) or one.operator is not operators.eq:
                continue
            for given, then in ((one.left, one.right), (one.right, one.left)):
                if not isinstance(then, ColumnClause) or not _is_of(then, targets):
                    continue
                if isinstance(given, ColumnClause):
                    self._follows.append((given, then))
                elif isinstance(given, BindParameter):
                    self._follows.append((None, then))

    def _unique_sets(self, table: FromClause) -> Iterator[set[Column]]:
        base = _table(table)
        assert isinstance(base, Table)
        sets: list[Iterable[Any]] = [base.primary_key.columns]
        sets += [one.columns for one in base.constraints if isinstance(one, UniqueConstraint)]
        sets += [one.expressions for one in base.indexes if one.unique and not _is_partial(one)]
        for columns in sets:
            if columns and all(isinstance(one, ColumnClause) for one in columns):
                found = {table.c[one.key] for one in columns}
                if not any(one.nullable for one in columns):
                    yield found

    def _is_nullable(self, column: Column) -> bool:
        if any(_is_of(column, [table]) for table in self._may_be_missing):
            return True
        return any(getattr(base, "nullable", True) for base in column.base_columns)


def _check_shape(query: Select[Any]) -> None:
    """Raise NotPageable where one more condition would change more than where a page begins."""
    if not isinstance(query, Select):
        raise NotPageable(
            f"a {type(query).__name__} cannot be paged by key, only a select(); {_PER_ROW}"
        )
    clauses = {
        "LIMIT or OFFSET": query._has_row_limiting_clause,
        "DISTINCT": query._distinct,
        "GROUP BY": bool(query._group_by_clauses),
        "HAVING": bool(query._having_criteria),
        "FOR UPDATE": query._for_update_arg is not None,
        "an aggregate or a window function": any(map(_spans_rows, query._raw_columns)),
    }
    for clause, is_there in clauses.items():
        if is_there:
            raise NotPageable(f"the query has {clause}, so it cannot be paged by key; {_PER_ROW}")


def _spans_rows(element: Any) -> bool:
    if isinstance(element, count | greatest | least | total | Over):
        return True
    if isinstance(element, SelectBase | FromClause):
        return False  # it has rows of its own
    return any(map(_spans_rows, element.get_children()))


def _ordered_column(clause: Any) -> tuple[Column, bool]:
    """Return the column that the query is ordered by, and whether it descends."""
    is_descending, column = False, clause
    while isinstance(column, UnaryExpression):
        if column.modifier is operators.desc_op:
            is_descending = True
        elif column.modifier not in _MODIFIERS:
            break
        column = column.element
    if not isinstance(column, ColumnClause) or column.table is None:
        raise NotPageable(
            f"the query is ordered by {clause}, which is no column of a table; "
            "order it by columns, such as Item.created_at"
        )
    return column, is_descending


def _conjunction(condition: Any) -> Iterator[Any]:
    if isinstance(condition, BooleanClauseList) and condition.operator is operators.and_:
        for one in condition.clauses:
            yield from _conjunction(one)
    elif condition is not None:
        yield condition


def _table(source: FromClause) -> FromClause:
    return source.element if isinstance(source, Alias) else source


def _is_of(column: Column, tables: Iterable[FromClause]) -> bool:
    return any(column in set(table.c) for table in tables)


def _is_partial(index: Index) -> bool:
    options = (index.dialect_options[name] for name in ("postgresql", "sqlite"))
    return any(one.get("where") is not None for one in options)


def _names(sources: Iterable[FromClause]) -> str:
    return " and ".join(
        repr(one.name) if isinstance(one, NamedFromClause) else type(one).__name__
        for one in sources
    )
