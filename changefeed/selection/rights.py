"""A token's rights: which tables, columns, rows and channels it may see. Knows no token or client.

Only what is named is allowed. An unknown word is an error: a misspelt limit must not lift it.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from changefeed.change.table_names import BadName, TableName, canonical, exact, parse_pattern
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.filter_text import parse_filter
from changefeed.selection.filters import BadFilter, Condition, Filter, all_of, filters_in, make_test

ORDERING = ("lt", "lte", "gt", "gte")
RIGHTS_SHAPE = (
    '{"tables": {"public.orders": {"columns": ["id"], "filter": ["customer_id=eq.42"]}}, "channels": [], '
    '"admin": false}'
)


class BadRights(ValueError):
    """The rights are malformed; the message says why."""


@dataclass(frozen=True)
class Grant:
    """The right to tables by `pattern`: to the named columns (None: all) of rows that match all filters.

    The pattern is `*`, `schema.*`, `schema.table`, or a name in any schema, each written as in SQL.
    """

    pattern: str
    columns: frozenset[str] | None = None
    filters: tuple[Condition, ...] = ()

    def gives(self, table: TableName) -> bool:
        """Whether the pattern certainly covers the table."""
        certain = parse_pattern(self.pattern).certain
        return certain is not None and certain.covers(table)

    def limits(self, table: TableName) -> bool:
        """Whether the pattern may cover the table."""
        return any(pattern.may_cover(table) for pattern in parse_pattern(self.pattern).possible)


Grants = tuple[Grant, ...]
EVERY_TABLE: Grants = (Grant("*"),)


def fingerprint(grants: Grants) -> bytes:
    """32 bytes that are equal only for equal grants."""
    value = [
        (
            grant.pattern,
            None if grant.columns is None else sorted(grant.columns),
            [_as_json(condition) for condition in grant.filters],
        )
        for grant in grants
    ]
    return hashlib.sha256(json.dumps(value).encode()).digest()


def _as_json(condition: Condition) -> list[object]:
    if isinstance(condition, Filter):
        return [condition.column, condition.is_negated, condition.operator, condition.operand]
    return [condition.operator, [_as_json(part) for part in condition.parts]]


@dataclass(frozen=True)
class Rights:
    """What a token may do. Rights() is nothing at all."""

    tables: Grants = ()
    channels: tuple[str, ...] = ()
    is_admin: bool = False

    @property
    def is_nothing(self) -> bool:
        return self == Rights()

    @property
    def sees_everything(self) -> bool:
        return self.tables == EVERY_TABLE

    @classmethod
    def parse(cls, value: object) -> "Rights":
        """Parses JSON of the form of RIGHTS_SHAPE; each member may be missing. Raises BadRights."""
        given = _members(value, "the rights", ("tables", "channels", "admin"))
        tables = given.get("tables", {})
        if not isinstance(tables, dict):
            raise BadRights(f"name tables as in {RIGHTS_SHAPE}")
        is_admin = given.get("admin", False)
        if not isinstance(is_admin, bool):
            raise BadRights("admin must be true or false")
        return cls(
            tuple(_grant(pattern, limits) for pattern, limits in sorted(tables.items())),
            tuple(sorted(_texts(given.get("channels", []), "channels"))),
            is_admin,
        )


ALL_RIGHTS = Rights(EVERY_TABLE, ("*",), True)


@dataclass(frozen=True)
class TableRights:
    """What rights allow to see of one table."""

    columns: frozenset[str] | None
    filters: tuple[Condition, ...]

    def shows(self, column: str) -> bool:
        return self.columns is None or column in self.columns


def table_rights_of_any(grants: Grants, tables: Collection[TableName]) -> TableRights | None:
    """What may be seen of a table that is one of these; None without a right to it.

    There must be a right to each of them, and the limits of every grant that may cover one of them apply.
    """
    if not tables or not all(any(grant.gives(table) for grant in grants) for table in tables):
        return None
    limiting = [grant for grant in grants if any(grant.limits(table) for table in tables)]
    limits = [grant.columns for grant in limiting if grant.columns is not None]
    columns = frozenset.intersection(*limits) if limits else None
    return TableRights(columns, tuple(term for grant in limiting for term in grant.filters))


def visible(grants: Grants, tables: Mapping[str, Mapping[str, Kind]]) -> Mapping[str, Mapping[str, Kind]]:
    """The part of the columns by table that the grants allow to see."""
    if grants == EVERY_TABLE:
        return tables
    seen = {}
    for table, columns in tables.items():
        granted = table_rights_of_any(grants, (exact(table),))
        if granted is not None and fits(granted.filters, columns):
            seen[table] = {column: kind for column, kind in columns.items() if granted.shows(column)}
    return seen


def fits(filters: Iterable[Condition], columns: Mapping[str, Kind]) -> bool:
    """Whether the filters can be applied to these columns. If not, nothing of the table may be seen."""
    try:
        for term in filters_in(filters):
            make_test(term, columns[term.column])
            if columns[term.column] in (Kind.TEXT, Kind.PADDED) and term.operator in ORDERING and _is_of_number(term):
                return False  # the column held numbers when the right was written; as texts "1000" comes before "50"
    except (KeyError, BadFilter):
        return False
    return True


def unchecked(grants: Grants, tables: Mapping[str, Mapping[str, Kind]]) -> set[tuple[str, str]]:
    """Tables, each with a column, whose filters cannot be applied: nothing of these tables may be seen."""
    return {
        (table, term.column)
        for table, columns in tables.items()
        for grant in grants
        if grant.filters and grant.limits(exact(table))
        for term in filters_in(grant.filters)
        if not fits((term,), columns)
    }


def _is_of_number(term: Filter) -> bool:
    try:
        make_test(term, Kind.NUMBER)
    except BadFilter:
        return False
    return True


def _grant(pattern: str, limits: object) -> Grant:
    try:
        pattern = canonical(pattern)
    except BadName as error:
        raise BadRights(
            f"{pattern[:80]!r} is not a table ({error}): write *, sales.*, public.orders or orders"
        ) from None
    given = _members(limits, f"the limits of {pattern[:80]}", ("columns", "filter"))
    columns = frozenset(_texts(given["columns"], "columns")) if "columns" in given else None
    try:
        filters = all_of(map(parse_filter, _texts(given.get("filter", []), "filter")))
    except BadFilter as error:
        raise BadRights(str(error)) from None
    return Grant(pattern, columns, filters)


def _members(value: object, what: str, known: tuple[str, ...]) -> Mapping[str, object]:
    if not isinstance(value, dict) or not value.keys() <= set(known):
        raise BadRights(f"{what} must be an object with only {', '.join(known)}, as in {RIGHTS_SHAPE}")
    return value


def _texts(value: object, what: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise BadRights(f"{what} must be a list of texts, as in {RIGHTS_SHAPE}")
    return value
