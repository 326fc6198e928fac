"""What a token says in, what may be seen out: tables, columns, rows, channels. Knows no token or client.

Nothing is given that is not named. A word that is not known is an error: a slip in a limit must not lift it.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from changefeed.change.table_names import BadName, TableName, as_written, canonical, exact, parse_pattern
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.filters import BadFilter, Filter, make_test, parse_filter

ORDERING = ("lt", "lte", "gt", "gte")
SHAPE = (
    '{"tables": {"public.orders": {"columns": ["id"], "filter": ["customer_id=eq.42"]}}, "channels": [], '
    '"admin": false}'
)


class BadRights(ValueError):
    """The rights are none; the message says what is wrong with them."""


@dataclass(frozen=True)
class Grant:
    """Tables by `pattern`: of their columns those named (None: all), of their rows those for which all filters hold.

    The pattern is `*`, `schema.*`, `schema.table`, or a name in whichever schema, each as SQL writes it.
    """

    pattern: str
    columns: frozenset[str] | None = None
    filters: tuple[Filter, ...] = ()

    def gives(self, table: TableName) -> bool:
        """Whether the table is meant for certain."""
        certain = parse_pattern(self.pattern).certain
        return certain is not None and certain.covers(table)

    def limits(self, table: TableName) -> bool:
        """Whether the table could be meant."""
        return any(pattern.may_cover(table) for pattern in parse_pattern(self.pattern).possible)


Grants = tuple[Grant, ...]
EVERY_TABLE: Grants = (Grant("*"),)


def fingerprint(grants: Grants) -> bytes:
    """32 bytes, the same for the same grants only."""
    said = [
        (
            grant.pattern,
            None if grant.columns is None else sorted(grant.columns),
            [(term.column, term.is_negated, term.operator, term.operand) for term in grant.filters],
        )
        for grant in grants
    ]
    return hashlib.sha256(json.dumps(said).encode()).digest()


@dataclass(frozen=True)
class Rights:
    """Without an argument: none."""

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
    def parse(cls, said: object) -> "Rights":
        """From what JSON gives for SHAPE, each member of which may be missing. Raises BadRights."""
        given = _members(said, "the rights", ("tables", "channels", "admin"))
        tables = given.get("tables", {})
        if not isinstance(tables, dict):
            raise BadRights(f"tables are named as in {SHAPE}")
        is_admin = given.get("admin", False)
        if not isinstance(is_admin, bool):
            raise BadRights("admin is true or false")
        return cls(
            tuple(_grant(pattern, limits) for pattern, limits in sorted(tables.items())),
            tuple(sorted(_texts(given.get("channels", []), "channels"))),
            is_admin,
        )


ALL_RIGHTS = Rights(EVERY_TABLE, ("*",), True)


@dataclass(frozen=True)
class Bound:
    """What may be seen of one table."""

    columns: frozenset[str] | None
    filters: tuple[Filter, ...]

    def shows(self, column: str) -> bool:
        return self.columns is None or column in self.columns


def bound_of(grants: Grants, table: str) -> Bound | None:
    """The same of a name as it is written, where no database is asked what it means."""
    return bound_of_any(grants, as_written(table))


def bound_of_any(grants: Grants, tables: Collection[TableName]) -> Bound | None:
    """What may be seen of a table that is one of these, None where there is no right to it.

    There must be a right to each of them; and the limits hold of every grant that could mean one.
    """
    if not tables or not all(any(grant.gives(table) for grant in grants) for table in tables):
        return None
    limiting = [grant for grant in grants if any(grant.limits(table) for table in tables)]
    limits = [grant.columns for grant in limiting if grant.columns is not None]
    columns = frozenset.intersection(*limits) if limits else None
    return Bound(columns, tuple(term for grant in limiting for term in grant.filters))


def visible(grants: Grants, tables: Mapping[str, Mapping[str, Kind]]) -> Mapping[str, Mapping[str, Kind]]:
    """Of the columns by table those that may be seen: what has no right to be seen is not there."""
    if grants == EVERY_TABLE:
        return tables
    seen = {}
    for table, columns in tables.items():
        bound = bound_of_any(grants, (exact(table),))
        if bound is not None and fits(bound.filters, columns):
            seen[table] = {column: kind for column, kind in columns.items() if bound.shows(column)}
    return seen


def fits(filters: Iterable[Filter], columns: Mapping[str, Kind]) -> bool:
    """Whether a table of these columns can be looked at through these filters; one through which it cannot is shut."""
    try:
        for term in filters:
            make_test(term, columns[term.column])
            if columns[term.column] in (Kind.TEXT, Kind.PADDED) and term.operator in ORDERING and _is_of_number(term):
                return False  # the column held numbers when the right was written; as texts "1000" comes before "50"
    except (KeyError, BadFilter):
        return False
    return True


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
            f"{pattern[:80]!r} names no table ({error}): write *, sales.*, public.orders or orders"
        ) from None
    given = _members(limits, f"the limits of {pattern[:80]}", ("columns", "filter"))
    columns = frozenset(_texts(given["columns"], "columns")) if "columns" in given else None
    try:
        filters = {parse_filter(text) for text in _texts(given.get("filter", []), "filter")}
    except BadFilter as error:
        raise BadRights(str(error)) from None
    return Grant(pattern, columns, tuple(sorted(filters, key=str)))


def _members(said: object, what: str, known: tuple[str, ...]) -> Mapping[str, object]:
    if not isinstance(said, dict) or not said.keys() <= set(known):
        raise BadRights(f"{what} are an object with nothing but {', '.join(known)}, as in {SHAPE}")
    return said


def _texts(said: object, what: str) -> list[str]:
    if not isinstance(said, list) or not all(isinstance(text, str) and text for text in said):
        raise BadRights(f"{what} is a list of texts, as in {SHAPE}")
    return said
