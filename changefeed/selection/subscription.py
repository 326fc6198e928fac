"""What a client asks for in, the changes it gets out. Knows no client, socket or database.

An UPDATE that takes a row into or out of the filter is delivered and says so, so that whoever follows a filter can keep
its rows: `"filter": "enter"` or `"leave"`.
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
from changefeed.selection.filters import BadFilter, Filter, equality, like_cost, make_test, parse_filter, within_reach
from changefeed.selection.rights import EVERY_TABLE, Grants, bound_of_any, visible
from changefeed.selection.visibility import SealCursor, TableVisibility, visibility_of

FIELDS = ("table", "action", "filter", "columns")
TERMS_LIMIT = 100  # of each field
FILTERS_LIMIT_CHARACTERS = 100_000  # of all filters together
PATTERNS_LIMIT_CHARACTERS = 1_000  # of all patterns of like together
LIKE_COST_LIMIT = 50  # of all patterns of like together
LIKE_REACH_CHARACTERS = 65_536  # of a text, that all patterns of like together compare
VALUES_LIMIT = 1_000  # of all filters together
KEPT_TABLES_LIMIT = 1_000  # a trigger of the user's may name any number, none of them a table

# The columns of a table and what they compare like; None for a table that the database does not know.
Columns = Callable[[str], Mapping[str, Kind] | None]
# The tables that a name could be of, as a trigger of the user's gives it.
Meanings = Callable[[str], Collection[TableName]]


class BadSubscription(ValueError):
    """What was asked for cannot be given; the message says what to write instead, `code` which field is meant."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Subscription:
    """Empty fields ask for everything. `tables` are `name`, `schema.name` or `schema.*` as SQL writes them; all
    `filters` must hold.

    `within` is not asked for but had: what the client has a right to.
    """

    tables: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    filters: tuple[Filter, ...] = ()
    columns: tuple[str, ...] = ()
    within: Grants = EVERY_TABLE

    @classmethod
    def parse(cls, fields: Mapping[str, Sequence[str]], within: Grants = EVERY_TABLE) -> "Subscription":
        """From texts by field; the order within a field means nothing. Raises BadSubscription."""
        for name, terms in fields.items():
            if len(terms) > TERMS_LIMIT:
                raise BadSubscription(f"bad_{name}", f"{name}: at most {TERMS_LIMIT} of them; open another socket")
        try:
            filters = _filters(fields.get("filter", ()))
        except BadFilter as error:
            raise BadSubscription("bad_filter", str(error)) from None
        return cls(
            tuple(sorted({_table(text) for text in fields.get("table", ())})),
            tuple(sorted({_action(text) for text in fields.get("action", ())})),
            tuple(sorted(filters, key=str)),
            tuple(sorted({column for text in fields.get("columns", ()) for column in _columns(text)})),
            within,
        )

    @property
    def is_bounded(self) -> bool:
        """Whether there is anything that the client has no right to."""
        return self.within != EVERY_TABLE

    def names(self, readings: Iterable[TableName]) -> bool:
        """Whether one of these, which a change's name could mean, is asked for."""
        if not self.tables:
            return True
        named, schemas = self._parts_of_patterns
        # First by what costs little, since a name of many dots could mean as many tables.
        likely = [name for name in readings if name.table in named or name.schema in schemas or None in schemas]
        return any(not self._patterns.isdisjoint(name.covering) for name in likely)

    @cached_property
    def _parts_of_patterns(self) -> tuple[frozenset[str | None], frozenset[str | None]]:
        """The tables that are named, and the schemas of which all are asked for; None for all there are."""
        return (
            frozenset(pattern.table for pattern in self._patterns if pattern.table is not None),
            frozenset(pattern.schema for pattern in self._patterns if pattern.table is None),
        )

    @cached_property
    def _patterns(self) -> frozenset[Pattern]:
        return frozenset(pattern for term in self.tables for pattern in parse_pattern(term).meant)

    @property
    def patterns(self) -> frozenset[Pattern]:
        """What it, and the right to it, name."""
        return self._patterns.union(*(parse_pattern(grant.pattern).possible for grant in self.within))

    def concerns(self, table: str, filtered: frozenset[str] = frozenset()) -> bool:
        """Whether anything of the table, by its qualified() name, is asked for and may be seen.

        With `filtered`: whether it is also filtered by one of these columns, or the right to it is.
        """
        names = (exact(table),)
        bound = bound_of_any(self.within, names) if self.names(names) else None
        if bound is None:
            return False
        return not filtered or any(term.column in filtered for term in (*self.filters, *bound.filters))


ALL_CHANGES = Subscription()


class Selection:
    """A subscription at work. A table's columns are looked up when its first change comes, and at refresh_columns()."""

    def __init__(
        self, subscription: Subscription, columns: Columns, seal: SealCursor = str, meanings: Meanings = as_written
    ) -> None:
        self.subscription = subscription
        self._columns = columns
        self._seal = seal
        self._meanings = meanings
        self._tables: dict[tuple[str, bool], TableSelection | None] = {}

    def pick(self, changes: Sequence[Change], rows: "Sequence[ChangedRow] | None" = None) -> Sequence[Change]:
        """Those that are asked for, as they are asked for. `rows` are the same changes', where somebody has them."""
        if self.subscription == ALL_CHANGES:
            return changes
        picked = (
            self.pick_one(change, row) for change, row in zip(changes, rows or map(ChangedRow, changes), strict=True)
        )
        return [change for change in picked if change is not None]

    def pick_one(self, change: Change, row: ChangedRow) -> Change | None:
        selected = self.for_table(change.table, is_exact=change.is_journaled)
        return selected.pick(change, row) if selected else None

    def cursor(self, cursor: str | None) -> str | None:
        """The cursor as the client may have it."""
        return self._seal(cursor) if cursor and self.subscription.is_bounded else cursor

    def refresh_columns(self) -> None:
        self._tables.clear()

    def for_table(self, table: str, *, is_exact: bool) -> "TableSelection | None":
        """None where the table is not asked for. `is_exact`: the name is the journal's, not a trigger's of the user."""
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
        columns = self._columns(table)  # a table that is not known is looked for
        bound = bound_of_any(asked.within, (exact(table),) if is_exact else self._meanings(table))
        if bound is None:
            return None
        for term in asked.filters:
            if not bound.shows(term.column) or (columns is not None and term.column not in columns):
                return None  # of several tables, one that has no such column
        terms = [(term, columns[term.column] if columns else None) for term in asked.filters]
        sight = visibility_of(bound, columns, self._seal) if asked.is_bounded else None
        if asked.is_bounded and sight is None:
            return None
        try:
            return TableSelection(asked, terms, sight)
        except BadFilter:
            return None  # or has it of another type


class TableSelection:
    """The changes of one table that are asked for."""

    def __init__(
        self, asked: Subscription, terms: Sequence[tuple[Filter, Kind | None]], sight: TableVisibility | None = None
    ) -> None:
        self._sight = sight  # None where everything is seen
        self._actions = frozenset(asked.actions or ACTIONS)
        self._tests = [(term.column, make_test(term, kind)) for term, kind in terms]
        self._columns = frozenset(asked.columns)
        bounding = sight.equality if sight else None
        self.equality = bounding or next(filter(None, (equality(term, kind) for term, kind in terms)), None)

    def pick(self, change: Change, row: ChangedRow) -> Change | None:
        if change.action not in self._actions and not change.is_loss:
            return None
        passage = ""
        if self._sight:
            seen = self._sight.see(change, row)
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
        return all(test(cell(column)) for column, test in self._tests)


def with_passage(change: Change, passage: str) -> Change:
    """The change, saying that it took its row into or out of the filter. A cursor stays last."""
    at = change.text.rindex(', "cursor": ' if change.id else "}")
    return msgspec.structs.replace(change, text=f'{change.text[:at]}, "filter": "{passage}"{change.text[at:]}')


def with_columns(change: Change, row: ChangedRow, columns: frozenset[str]) -> Change:
    """The change with just these columns in `data` and `old`, every value byte for byte. `row` is the change's."""
    parts: dict[str, str | Raw] = {**row.message}
    for name, found in (("data", row.data), ("old", row.old)):
        if found is not None:
            parts[name] = write(some(found, columns))
    return msgspec.structs.replace(change, text=write(parts, space=" "))


def _filters(texts: Sequence[str]) -> set[Filter]:
    """Raises BadFilter, also where all of them together would cost too much."""
    if sum(map(len, texts)) > FILTERS_LIMIT_CHARACTERS:
        raise BadFilter(f"the filters have at most {FILTERS_LIMIT_CHARACTERS} characters together")
    filters = {parse_filter(text) for text in texts}
    if sum(len(term.values) for term in filters) > VALUES_LIMIT:
        raise BadFilter(f"the filters have at most {VALUES_LIMIT} values together")
    patterns = [term for term in filters if term.operator == "like"]
    if sum(len(term.operand) for term in patterns) > PATTERNS_LIMIT_CHARACTERS:
        raise BadFilter(f"the patterns of like have at most {PATTERNS_LIMIT_CHARACTERS} characters together")
    if like_cost(patterns) > LIKE_COST_LIMIT:
        raise BadFilter(
            f"the patterns of like have at most {LIKE_COST_LIMIT} characters together in pieces with a _ within; "
            "* and % cost nothing"
        )
    return within_reach(filters, LIKE_REACH_CHARACTERS)


def _table(text: str) -> str:
    """The one way to write it, so that whoever asks for the same is one audience."""
    name = text.strip()
    try:
        if name != "*":
            return canonical(name)
        reason = "without the field it is all tables"
    except BadName as error:
        reason = str(error)
    raise BadSubscription(
        "bad_table",
        f'{text[:80]!r} names no table ({reason}): write orders, public.orders, sales.* or sales."odd.name"',
    )


def _action(text: str) -> str:
    if text.upper() not in ACTIONS:
        raise BadSubscription("bad_action", f"{text[:80]!r} is no action: write one of {', '.join(ACTIONS)}")
    return text.upper()


def _columns(text: str) -> list[str]:
    """Names with commas in between; one with a comma in it stands in double quotes."""
    columns = [name[1:-1].replace('""', '"') if name.startswith('"') else name for name in split_list(text)]
    if not all(columns):
        raise BadSubscription("bad_columns", f"{text[:80]!r} names no columns: write id,status")
    return columns


def check(
    subscription: Subscription, tables: Mapping[str, Mapping[str, Kind]], payload: Payload = Payload.FULL
) -> None:
    """Raises BadSubscription where no change can ever fit: no such table, no such column, a value of another type.

    Of several tables one must fit. `tables` are those of the database, by schema.name; what the client has no right to
    is, for whatever is said here, not there. Neither is what `payload` withholds, which is told, whatever is asked for.
    """
    if payload is Payload.OFF and (subscription.filters or subscription.columns):
        raise BadSubscription("withheld_column", payload.withheld)
    tables = visible(subscription.within, tables)
    covering = {pattern for table in tables for pattern in exact(table).covering} if subscription.tables else set()
    for name in subscription.tables:
        meant = parse_pattern(name).meant
        if all(pattern.table is not None for pattern in meant) and covering.isdisjoint(meant):
            raise BadSubscription(
                "unknown_table", f"there is no table {name[:80]!r}; GET /api/tables lists what there is"
            )
    named = {table: columns for table, columns in tables.items() if subscription.names((exact(table),))}
    if not named:
        return
    for term in subscription.filters:
        kinds = {columns[term.column] for columns in named.values() if term.column in columns}
        if not kinds:
            raise _unknown_column(term.column, named, payload)
        _check_value(term, kinds)
    for column in subscription.columns:
        if not any(column in columns for columns in named.values()):
            raise _unknown_column(column, named, payload)


def _check_value(term: Filter, kinds: set[Kind]) -> None:
    for kind in kinds:
        try:
            make_test(term, kind)
        except BadFilter as error:
            refusal = str(error)
        else:
            return
    raise BadSubscription("bad_filter", refusal)


def _unknown_column(column: str, named: Mapping[str, Mapping[str, Kind]], payload: Payload) -> BadSubscription:
    if payload is not Payload.FULL:
        return BadSubscription("withheld_column", f"{column[:80]!r} is no column to ask for: {payload.withheld}")
    if len(named) > 1:
        return BadSubscription("unknown_column", f"none of the tables asked for has a column {column[:80]!r}")
    [(table, columns)] = named.items()
    known = ", ".join(columns)[:500]
    return BadSubscription("unknown_column", f"{table} has no column {column[:80]!r}; it has {known}")
