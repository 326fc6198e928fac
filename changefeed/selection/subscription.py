"""A subscription, and the selection of changes by it. Knows no client, socket or database.

An UPDATE that moves a row into or out of the filter is delivered with `"filter": "enter"` or `"leave"`, so that a
client can keep exactly the rows that match.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec
from msgspec import Raw

from changefeed.change.change import ACTIONS, Change
from changefeed.change.changed_row import Cell, ChangedRow
from changefeed.change.exposure import Payload
from changefeed.change.json_text import some, write
from changefeed.change.table_names import (
    SQL_SPACE,
    BadName,
    Pattern,
    TableName,
    as_written,
    canonical,
    could_mean,
    exact,
    parse_pattern,
    split_list,
)
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.filter_text import CONDITIONS_LIMIT, parse_filter
from changefeed.selection.filters import (
    BadFilter,
    Condition,
    Filter,
    KindOf,
    all_of,
    equalities,
    filters_in,
    like_cost,
    make_test,
    row_test,
    within_reach,
)
from changefeed.selection.rights import EVERY_TABLE, Grants, table_rights_of_any, unchecked, visible
from changefeed.selection.visibility import SealCursor, TableVisibility, visibility_of

FIELDS = ("table", "action", "filter", "columns")
TERMS_LIMIT = 100  # of each field
FILTERS_LIMIT_CHARACTERS = 100_000  # of all filters together
PATTERNS_LIMIT_CHARACTERS = 1_000  # of all patterns of like together
LIKE_COST_LIMIT = 50  # of all patterns of like together
LIKE_REACH_CHARACTERS = 65_536  # of a text that all patterns of like together may compare
VALUES_LIMIT = 1_000  # of all filters together
SHOWN_TABLES = 5  # of those in a refusal
KEPT_TABLES_LIMIT = 1_000  # a user's trigger may name any number of tables that do not exist

# The columns of a table and their kinds; None for an unknown table.
Columns = Callable[[str], Mapping[str, Kind] | None]
# The tables that a name may mean, as a user's trigger spells it.
Meanings = Callable[[str], Collection[TableName]]


class BadSubscription(ValueError):
    """The subscription is invalid; the message says what to write instead, and `code` names the field."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class UncheckedRight(BadSubscription):
    """A filter of the client's rights cannot be checked, so nothing of the table is visible.

    `private` also names the columns, which the client may have no right to see.
    """

    def __init__(self, columns: Iterable[tuple[str, str]]) -> None:
        found = sorted(columns)
        tables = _some([*dict.fromkeys(table for table, _ in found)])
        self.private = f"filters cannot be checked on {_some([f'{column} of {table}' for table, column in found])}"
        super().__init__(
            "unknown_table",
            f"your token gives nothing of {tables}: its filter cannot be checked, since there is no such column or its "
            "type does not fit; have the token's rights corrected",
        )


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_TABLES
    return ", ".join(name[:160] for name in names[:SHOWN_TABLES]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Subscription:
    """What a client asks for. Empty fields ask for everything; a change must match all `filters`.

    `tables` are `name`, `schema.name` or `schema.*`, written as in SQL. `within` is what the client has a right to.
    """

    tables: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    filters: tuple[Condition, ...] = ()  # in the form of all_of()
    columns: tuple[str, ...] = ()
    within: Grants = EVERY_TABLE

    @classmethod
    def parse(cls, fields: Mapping[str, Sequence[str]], within: Grants = EVERY_TABLE) -> "Subscription":
        """Parses texts by field; their order does not matter. Raises BadSubscription."""
        for name, terms in fields.items():
            if len(terms) > TERMS_LIMIT:
                raise BadSubscription(
                    f"bad_{name}", f"{name}: at most {TERMS_LIMIT} of them; open another socket for more"
                )
        try:
            filters = _filters(fields.get("filter", ()))
        except BadFilter as error:
            raise BadSubscription("bad_filter", str(error)) from None
        return cls(
            tuple(sorted({_table(text) for text in fields.get("table", ())})),
            tuple(sorted({_action(text) for text in fields.get("action", ())})),
            filters,
            tuple(sorted({column for text in fields.get("columns", ()) for column in _columns(text)})),
            within,
        )

    @property
    def is_restricted(self) -> bool:
        """Whether the client's rights are limited."""
        return self.within != EVERY_TABLE

    def names(self, readings: Iterable[TableName]) -> bool:
        """Whether it asks for one of these, which a change's name may mean."""
        if not self.tables:
            return True
        named, schemas = self._parts_of_patterns
        # The cheap checks come first, since a name with many dots may mean as many tables.
        likely = [name for name in readings if name.table in named or name.schema in schemas or None in schemas]
        return any(not self._patterns.isdisjoint(name.covering) for name in likely)

    @cached_property
    def _parts_of_patterns(self) -> tuple[frozenset[str | None], frozenset[str | None]]:
        """The tables that it names, and the schemas of which it asks for all tables; None means all."""
        return (
            frozenset(pattern.table for pattern in self._patterns if pattern.table is not None),
            frozenset(pattern.schema for pattern in self._patterns if pattern.table is None),
        )

    @cached_property
    def _patterns(self) -> frozenset[Pattern]:
        return frozenset(pattern for term in self.tables for pattern in parse_pattern(term).meant)

    @property
    def patterns(self) -> frozenset[Pattern]:
        """The patterns of the subscription and of its rights."""
        return self._patterns.union(*(parse_pattern(grant.pattern).possible for grant in self.within))

    def concerns(self, table: str, filtered: frozenset[str] = frozenset()) -> bool:
        """Whether it asks for anything visible of the table, given by its qualified() name.

        With `filtered`: whether it, or the right to it, also filters by one of these columns.
        """
        names = (exact(table),)
        granted = table_rights_of_any(self.within, names) if self.names(names) else None
        if granted is None:
            return False
        return not filtered or any(term.column in filtered for term in filters_in((*self.filters, *granted.filters)))


ALL_CHANGES = Subscription()


class Selection:
    """Selects changes by a subscription. Looks up a table's columns at its first change and after refresh_columns()."""

    def __init__(
        self, subscription: Subscription, columns: Columns, seal: SealCursor = str, meanings: Meanings = as_written
    ) -> None:
        self.subscription = subscription
        self._columns = columns
        self._seal = seal
        self._meanings = meanings
        self._tables: dict[tuple[str, bool], TableSelection | None] = {}

    def pick(self, changes: Sequence[Change], rows: "Sequence[ChangedRow] | None" = None) -> Sequence[Change]:
        """The selected changes, reduced to the selected columns. `rows` are those of the changes, if known."""
        if self.subscription == ALL_CHANGES:
            return changes
        picked = (
            self.pick_one(change, row) for change, row in zip(changes, rows or map(ChangedRow, changes), strict=True)
        )
        return [change for change in picked if change is not None]

    def pick_one(self, change: Change, row: ChangedRow) -> Change | None:
        selected = self.for_table(change.table, is_exact=change.is_from_journal)
        return selected.pick(change, row) if selected else None

    def cursor(self, cursor: str | None) -> str | None:
        """The cursor to send to the client: sealed if its rights are limited."""
        return self._seal(cursor) if cursor and self.subscription.is_restricted else cursor

    def refresh_columns(self) -> None:
        self._tables.clear()

    def for_table(self, table: str, *, is_exact: bool) -> "TableSelection | None":
        """The selection of one table, if any. `is_exact`: the name is from the journal, not from a user's trigger."""
        key = table, is_exact
        if key not in self._tables:
            if len(self._tables) >= KEPT_TABLES_LIMIT:
                self._tables.clear()
            self._tables[key] = self._look_up(table, is_exact) if table else None
        return self._tables[key]

    def _look_up(self, table: str, is_exact: bool) -> "TableSelection | None":
        asked = self.subscription
        if not asked.names((exact(table),) if is_exact else could_mean(table)):
            return None
        columns = self._columns(table)  # an unknown table is looked up
        granted = table_rights_of_any(asked.within, (exact(table),) if is_exact else self._meanings(table))
        if granted is None:
            return None
        for term in filters_in(asked.filters):
            if not granted.shows(term.column) or (columns is not None and term.column not in columns):
                return None  # one of several tables, and it has no such column
        visibility = visibility_of(granted, columns, self._seal) if asked.is_restricted else None
        if asked.is_restricted and visibility is None:
            return None
        try:
            return TableSelection(asked, (columns or {}).get, visibility)
        except BadFilter:
            return None  # or has it with another type


class TableSelection:
    """Selects the changes of one table."""

    def __init__(
        self,
        asked: Subscription,
        kind_of: KindOf,
        visibility: TableVisibility | None = None,
    ) -> None:
        self._visibility = visibility  # None if everything is visible
        self._actions = frozenset(asked.actions or ACTIONS)
        self._tests = [row_test(condition, kind_of) for condition in asked.filters]
        self._columns = frozenset(asked.columns)
        required = visibility.equalities if visibility else ()
        # One of them at least holds of each row that is selected; empty if there are no such.
        self.equalities = required or equalities(asked.filters, kind_of)

    def pick(self, change: Change, row: ChangedRow) -> Change | None:
        if change.action not in self._actions and not change.is_loss:
            return None
        passage = ""
        if self._visibility:
            seen = self._visibility.see(change, row)
            if seen is None:
                return None
            change, passage, row = seen
        if self._tests and row.is_known:
            holds = held = self._holds(row.cell)
            if change.action == "UPDATE" and row.is_changed:
                held = self._holds(row.old_cell)
            if not holds and not held:
                return None
            if holds is not held:
                passage = "enter" if holds else "leave"
        if self._columns:
            change = with_columns(change, row, self._columns)
        return with_passage(change, passage) if passage else change

    def _holds(self, cell: Callable[[str], Cell]) -> bool:
        return all(test(cell) for test in self._tests)


def with_passage(change: Change, passage: str) -> Change:
    """The change with a mark that it moved its row into or out of the filter. The cursor stays last."""
    at = change.text.rindex(', "cursor": ' if change.id else "}")
    return msgspec.structs.replace(change, text=f'{change.text[:at]}, "filter": "{passage}"{change.text[at:]}')


def with_columns(change: Change, row: ChangedRow, columns: frozenset[str]) -> Change:
    """The change with only these columns in `data` and `old`, every value byte for byte. `row` is the change's."""
    parts: dict[str, str | Raw] = {**row.message}
    for name, found in (("data", row.data), ("old", row.old)):
        if found is not None:
            parts[name] = write(some(found, columns))
    return msgspec.structs.replace(change, text=write(parts, space=" "))


def _filters(texts: Sequence[str]) -> tuple[Condition, ...]:
    """Parses the filters. Raises BadFilter, also if they would cost too much together."""
    if sum(map(len, texts)) > FILTERS_LIMIT_CHARACTERS:
        raise BadFilter(f"the filters must have at most {FILTERS_LIMIT_CHARACTERS} characters together")
    parsed: list[Condition] = []
    for text in texts:
        parsed.append(parse_filter(text))
        if sum(1 for _ in filters_in(parsed)) > CONDITIONS_LIMIT:  # before more is parsed
            raise BadFilter(f"the filters must have at most {CONDITIONS_LIMIT} conditions together")
    conditions = all_of(parsed)
    filters = list(filters_in(conditions))
    if sum(len(term.values) for term in filters) > VALUES_LIMIT:
        raise BadFilter(f"the filters must have at most {VALUES_LIMIT} values together")
    patterns = [term for term in filters if term.operator == "like"]
    if sum(len(term.operand) for term in patterns) > PATTERNS_LIMIT_CHARACTERS:
        raise BadFilter(f"the patterns of like must have at most {PATTERNS_LIMIT_CHARACTERS} characters together")
    if like_cost(patterns) > LIKE_COST_LIMIT:
        raise BadFilter(
            f"the patterns of like must have at most {LIKE_COST_LIMIT} characters together in pieces with a _ inside; "
            "* and % cost nothing"
        )
    return tuple(within_reach(conditions, LIKE_REACH_CHARACTERS))


def _table(text: str) -> str:
    """The canonical spelling, so that clients that ask for the same are one audience."""
    name = text.strip(SQL_SPACE)
    try:
        if name != "*":
            return canonical(name)
        reason = "leave the field out for all tables"
    except BadName as error:
        reason = str(error)
    raise BadSubscription(
        "bad_table",
        f'{text[:80]!r} is not a table ({reason}): write orders, public.orders, sales.* or sales."odd.name"',
    )


def _action(text: str) -> str:
    if text.upper() not in ACTIONS:
        raise BadSubscription("bad_action", f"{text[:80]!r} is not an action: write one of {', '.join(ACTIONS)}")
    return text.upper()


def _columns(text: str) -> list[str]:
    """Parses names with commas in between; a name with a comma must be in double quotes."""
    columns = [name[1:-1].replace('""', '"') if name.startswith('"') else name for name in split_list(text)]
    if not all(columns):
        raise BadSubscription("bad_columns", f"{text[:80]!r} is not a list of columns: write id,status")
    return columns


def check_subscribable(
    subscription: Subscription,
    tables: Mapping[str, Mapping[str, Kind]],
    payload: Payload = Payload.FULL,
    others: Mapping[str, str] | None = None,
) -> None:
    """Raises BadSubscription if no change can ever match: no such table or column, or a value of another type.

    Of several tables, one must match. `tables` are the database's, by schema.name. Tables and columns that the client
    has no right to count as missing. A column that `payload` withholds has an error of its own. `others` are relations
    without changes, by schema.name, with what they are.
    """
    if payload is Payload.OFF and (subscription.filters or subscription.columns):
        raise BadSubscription("withheld_column", payload.withheld)
    existing, tables = tables, visible(subscription.within, tables)
    covering = {pattern for table in tables for pattern in exact(table).covering} if subscription.tables else set()
    unknown = []
    for name in subscription.tables:
        meant = parse_pattern(name).meant
        if all(pattern.table is not None for pattern in meant) and covering.isdisjoint(meant):
            unknown.append(name)
    if unknown or not tables:
        _refuse_unchecked(unknown, subscription.within, existing)
    if unknown:
        _refuse_other(unknown, subscription.within, others or {})
        names = ", ".join(repr(name[:80]) for name in unknown[:SHOWN_TABLES])
        names += " and others" if unknown[SHOWN_TABLES:] else ""
        raise BadSubscription("unknown_table", f"there is no table {names}; GET /api/tables lists the tables")
    named = {table: columns for table, columns in tables.items() if subscription.names((exact(table),))}
    if not named:
        return
    for term in filters_in(subscription.filters):
        kinds = {columns[term.column] for columns in named.values() if term.column in columns}
        if not kinds:
            raise _unknown_column(term.column, named, payload)
        _check_value(term, kinds)
    if not any(_fits(subscription.filters, columns) for columns in named.values()):
        missing = ", ".join(sorted({term.column for term in filters_in(subscription.filters)}))[:500]
        raise BadSubscription(
            "unknown_column",
            f"none of the tables asked for has all columns of the filters, so that they fit: {missing}",
        )
    for column in subscription.columns:
        if not any(column in columns for columns in named.values()):
            raise _unknown_column(column, named, payload)


def _refuse_unchecked(names: Iterable[str], within: Grants, tables: Mapping[str, Mapping[str, Kind]]) -> None:
    """Raises UncheckedRight if a filter for one of the tables, or without names for any, cannot be checked."""
    if not any(grant.filters for grant in within):
        return
    meant = {pattern for name in names for pattern in parse_pattern(name).meant}
    granted = {
        table: columns
        for table, columns in tables.items()
        if (not meant or not meant.isdisjoint(exact(table).covering)) and table_rights_of_any(within, (exact(table),))
    }
    if found := unchecked(within, granted):
        raise UncheckedRight(found)


def _refuse_other(names: Iterable[str], within: Grants, others: Mapping[str, str]) -> None:
    """Raises BadSubscription if a name means a relation without changes that the client may know of."""
    meant = {pattern for name in names for pattern in parse_pattern(name).meant}
    for other, what in others.items():
        if not meant.isdisjoint(exact(other).covering) and table_rights_of_any(within, (exact(other),)):
            raise BadSubscription("unknown_table", f"{other} is {what}")


def _check_value(term: Filter, kinds: set[Kind]) -> None:
    for kind in kinds:
        try:
            make_test(term, kind)
        except BadFilter as error:
            refusal = str(error)
        else:
            return
    raise BadSubscription("bad_filter", refusal)


def _fits(filters: Iterable[Condition], columns: Mapping[str, Kind]) -> bool:
    try:
        for term in filters_in(filters):
            make_test(term, columns[term.column])
    except (KeyError, BadFilter):
        return False
    return True


def _unknown_column(column: str, named: Mapping[str, Mapping[str, Kind]], payload: Payload) -> BadSubscription:
    if payload is not Payload.FULL:
        return BadSubscription("withheld_column", f"{column[:80]!r} cannot be used: {payload.withheld}")
    if len(named) > 1:
        return BadSubscription("unknown_column", f"none of the tables asked for has a column {column[:80]!r}")
    [(table, columns)] = named.items()
    known = ", ".join(columns)[:500]
    return BadSubscription("unknown_column", f"{table} has no column {column[:80]!r}; it has {known}")
