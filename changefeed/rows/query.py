"""Fields of a request in, a query for the rows of one table out, and its SQL. Knows no connection and no client."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from changefeed.change.table_names import TableName, exact, qualified, split_list
from changefeed.rows.refusal import ALTERED, Reason, RowsRefused
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.filter_sql import sql_condition
from changefeed.selection.filters import BadFilter, Condition, filters_in
from changefeed.selection.rights import TableRights, table_rights_of_any
from changefeed.selection.subscription import Subscription

ORDER_LIMIT = 10  # columns to sort by
_ORDER = re.compile(
    r'(?P<column>"(?:[^"]|"")+"|[^".]+)(?:\.(?P<direction>asc|desc))?(?:\.nulls(?P<nulls>first|last))?', re.DOTALL
)


@dataclass(frozen=True)
class SortKey:
    """A column to sort by, and what follows it in SQL."""

    column: str
    direction: str


@dataclass(frozen=True)
class RowsQuery:
    """The rows of one table, `subscription`'s only one, which is named with its schema."""

    table: TableName
    subscription: Subscription
    order: tuple[SortKey, ...] = ()
    limit: int | None = None

    @property
    def name(self) -> str:
        """The table's qualified() name."""
        return qualified(str(self.table.schema), self.table.table)

    @property
    def granted(self) -> TableRights:
        """What the rights allow to see of the table."""
        return table_rights_of_any(self.subscription.within, (self.table,)) or TableRights(frozenset(), ())

    @property
    def is_filtered(self) -> bool:
        """Whether not all rows are asked for, or may be seen."""
        return bool(self.filters)

    @property
    def filters(self) -> Sequence[Condition]:
        """The client's filters and those of its rights."""
        return (*self.subscription.filters, *self.granted.filters)

    @property
    def filtered_columns(self) -> Collection[str]:
        """The columns that the filters name."""
        return {term.column for term in filters_in(self.filters)}


@dataclass(frozen=True)
class TableSource:
    """The columns of a table, as sql/rows.sql reads them in the reading's snapshot."""

    source: str
    names: Sequence[str]
    quoted_names: Sequence[str]
    expressions: Sequence[str]
    hashed: Collection[str]
    key: Collection[str]
    encoding: str  # the database's
    computed: Collection[str]  # the virtual generated columns, whose values are computed when they are read

    def item(self, name: str) -> str:
        """What to write after SELECT."""
        at = self.names.index(name)
        return f"{self.expressions[at]} AS {self.quoted_names[at]}"

    @property
    def hashes(self) -> dict[str, str]:
        """The expressions of the hashed columns."""
        return {name: self.expressions[self.names.index(name)] for name in self.hashed}


def query_for(
    subscription: Subscription,
    tables: Collection[str],
    order: tuple[SortKey, ...] = (),
    limit: int | None = None,
) -> RowsQuery:
    """The query for the rows of the table that the subscription names; `tables` are those it names that can be seen.

    Its subscription names exactly that table: a table of that name in another schema would not belong to the rows.
    Raises RowsRefused.
    """
    if len(subscription.tables) != 1 or subscription.tables[0].endswith(".*"):
        raise RowsRefused(Reason.BAD_ROWS, "rows are those of one table: write table=public.orders, once")
    if subscription.actions:
        raise RowsRefused(Reason.BAD_ROWS, "rows need the changes of all actions after them: leave action out")
    if len(tables) > 1:
        raise RowsRefused(Reason.BAD_ROWS, f"the name means several tables: write one of {', '.join(sorted(tables))}")
    [name] = tables
    return RowsQuery(exact(name), replace(subscription, tables=(name,)), order, limit)


def parse_order(texts: Sequence[str]) -> tuple[SortKey, ...]:
    """Parses `created_on.desc,id` as PostgREST does: column[.asc|.desc][.nullsfirst|.nullslast]. Raises RowsRefused."""
    terms = [term for text in texts for term in split_list(text)]
    if len(terms) > ORDER_LIMIT:
        raise RowsRefused(Reason.BAD_ORDER, f"at most {ORDER_LIMIT} columns to sort by")
    return tuple(map(_sort_key, terms))


def _sort_key(term: str) -> SortKey:
    found = _ORDER.fullmatch(term)
    if not found:
        raise RowsRefused(
            Reason.BAD_ORDER,
            f"{term[:80]!r} is not an order: write created_on.desc,id, with .asc or .desc and then .nullsfirst or "
            ".nullslast, or neither; a column's name with a dot in double quotes",
        )
    column = found["column"]
    if column.startswith('"'):
        column = column[1:-1].replace('""', '"')
    direction = " DESC" if found["direction"] == "desc" else ""
    return SortKey(column, direction + (f" NULLS {found['nulls'].upper()}" if found["nulls"] else ""))


def shown_columns(query: RowsQuery, source: TableSource, *, keys_only: bool) -> list[str]:
    """The columns that the rows are to have, in the table's order."""
    asked, granted = query.subscription.columns, query.granted
    return [
        name
        for name in source.names
        if (not asked or name in asked) and granted.shows(name) and (not keys_only or name in source.key)
    ]


def statement(
    query: RowsQuery, source: TableSource, kinds: Mapping[str, Kind], *, keys_only: bool
) -> tuple[str, tuple[str, ...]]:
    """The query of the rows as JSON texts, and its parameters, for psycopg2. Raises RowsRefused.

    `kinds` are those of the table's columns, as far as known.
    """
    if not set(source.names).issuperset(query.filtered_columns):
        raise RowsRefused(Reason.ALTERED, ALTERED)
    shown = shown_columns(query, source, keys_only=keys_only)
    items = ", ".join(source.item(name) for name in source.names if name in {*shown, *query.filtered_columns})
    order = ", ".join(_sorted_by(key, query, source, keys_only=keys_only) for key in query.order)
    ordered = f" ORDER BY {order}" if order else ""
    # The rows that match are looked at once more, see reading.py.
    limited = f" LIMIT {query.limit}" if query.limit is not None and not query.is_filtered else ""
    try:
        condition, parameters = _condition(query, source, kinds)
    except BadFilter:
        raise RowsRefused(Reason.ALTERED, ALTERED) from None
    before = f"SELECT row_to_json(r.*)::text FROM (SELECT {items} FROM {source.source} WHERE "
    after = f"{ordered}{limited}) AS r"
    return f"{before.replace('%', '%%')}{condition}{after.replace('%', '%%')}", parameters


def _condition(query: RowsQuery, source: TableSource, kinds: Mapping[str, Kind]) -> tuple[str, tuple[str, ...]]:
    """True of the rows that match, and its parameters. Raises BadFilter.

    PostgreSQL may try the filters in any order, and one that fails on a row is an error. So that no error depends on
    rows that the client may not see, its filters that may fail are tried only where those of its rights hold.
    """
    hashes = {name: expression.replace("%", "%%") for name, expression in source.hashes.items()}

    def written(filters: Sequence[Condition]) -> tuple[str, tuple[str, ...]]:
        return sql_condition(filters, kinds, "t", expressions=hashes, encoding=source.encoding)

    def may_fail(condition: Condition) -> bool:
        terms = list(filters_in([condition]))
        return (
            "convert_to(" in written([condition])[0]
            or any(term.operator == "like" for term in terms)  # a collation may not allow it
            or not {term.column for term in terms}.isdisjoint([*source.hashed, *source.computed])
        )

    rights = query.granted.filters
    if not rights:
        return written(query.subscription.filters)
    after = [one for one in query.subscription.filters if may_fail(one) or any(map(may_fail, rights))]
    condition, parameters = written([*rights, *(one for one in query.subscription.filters if one not in after)])
    if after:
        allowed, of_rights = written(rights)
        asked, of_asked = written(after)
        condition += f" AND (CASE WHEN {allowed} THEN {asked} ELSE FALSE END)"
        parameters += of_rights + of_asked
    return condition, parameters


def _sorted_by(key: SortKey, query: RowsQuery, source: TableSource, *, keys_only: bool) -> str:
    name = key.column
    seen = [one for one in source.names if query.granted.shows(one) and (not keys_only or one in source.key)]
    if name not in seen:
        sortable = ", ".join(one for one in seen if one not in source.hashed)[:500]
        advice = f"write one of {sortable}" if sortable else "leave order out"
        raise RowsRefused(Reason.BAD_ORDER, f"{name[:80]!r} is no column to sort by; {advice}")
    if name in source.hashed:
        raise RowsRefused(Reason.BAD_ORDER, f"{name[:80]!r} is hashed, and cannot be sorted by")
    return f"t.{source.quoted_names[source.names.index(name)]}{key.direction}"
