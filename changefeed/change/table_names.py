"""Parses and writes names of tables as in SQL: text in, schema and table out, and back. Knows no database.

A part with a dot, a star or a double quote must be in double quotes, with "" for a quote; any other part may be.
`sales."eu.orders"` and `"sales.eu".orders` are two tables, and `sales.eu.orders` could mean either.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

# PostgreSQL's names have at most 63 bytes, and so at most 63 characters. A longer one names nothing.
NAME_LIMIT_CHARACTERS = 63
LIMIT_CHARACTERS = 2 * (2 * NAME_LIMIT_CHARACTERS + 2) + 1  # two names in quotes, all of them quotes
PLAIN_LIMIT_CHARACTERS = 2 * NAME_LIMIT_CHARACTERS + 1  # without quotes
SQL_SPACE = " \t\n\r\f\v"  # what SQL takes for space; any other control character is part of a name

_MISPLACED_STAR = "a star must stand alone, for all tables, or after a schema, for all of its tables"
_TOO_LONG = f"it is too long: PostgreSQL's names have at most {NAME_LIMIT_CHARACTERS} bytes"
_NEEDS_QUOTES = re.compile(r'[."*]')
_PART = re.compile(r'"((?:[^"]|"")+)"|([^".][^.]*)')


class BadName(ValueError):
    """The text is not a name of a table; the message says why."""


class TableName(NamedTuple):
    """A table's name. Without a schema it means the table of that name in any schema."""

    schema: str | None
    table: str

    @property
    def covering(self) -> "tuple[Pattern, ...]":
        """All patterns that cover the name, to look them up among many."""
        return (
            Pattern(self.schema, self.table),
            Pattern(self.schema, None),
            Pattern(None, self.table),
            Pattern(None, None),
        )


@lru_cache(maxsize=4096)
def qualified(schema: str, table: str) -> str:
    """The canonical name of a table with its schema."""
    return f"{_quoted(schema)}.{_quoted(table)}"


class Pattern(NamedTuple):
    """A pattern for names; None means any schema, or any table."""

    schema: str | None
    table: str | None

    def covers(self, name: TableName) -> bool:
        """Whether the pattern certainly covers the name."""
        return self.schema in (None, name.schema) and self.table in (None, name.table)

    def may_cover(self, name: TableName) -> bool:
        """Whether it may cover the name, if a name without a schema may be in any."""
        return self.covers(name) or (name.schema is None and self.table in (None, name.table))


@dataclass(frozen=True)
class Patterns:
    """What a text such as `*`, `sales.*`, `public.orders` or `orders` means: `certain`, unless it is ambiguous."""

    certain: Pattern | None
    possible: tuple[Pattern, ...]

    @property
    def meant(self) -> tuple[Pattern, ...]:
        return (self.certain,) if self.certain else self.possible

    @property
    def readings(self) -> str:
        """For an error: how to write each meaning of an ambiguous name."""
        return " or ".join(qualified(one.schema, one.table) for one in self.possible if one.schema and one.table)


@lru_cache(maxsize=256)
def parse_pattern(text: str) -> Patterns:
    """Parses a name or pattern. Raises BadName."""
    parts = _split(text)
    for part, is_quoted in parts[:-1]:
        if "*" in part and not is_quoted:
            raise BadName(_MISPLACED_STAR)
    last, is_quoted = parts[-1]
    if last == "*" and not is_quoted:
        if len(parts) == 1:
            return _only(Pattern(None, None))
        schema = _joined(parts[:-1])
        if schema is None:
            raise BadName("a name cannot have both quoted and unquoted parts")
        if not _may_be(schema):
            raise BadName(_TOO_LONG)
        return _only(Pattern(schema, None))
    if "*" in last and not is_quoted:
        raise BadName(_MISPLACED_STAR)
    possible = tuple(Pattern(*name) for name in _readings(parts))
    if not possible and any(is_quoted for _, is_quoted in parts) and len(parts) > 2:
        raise BadName("it must have at most two parts, a schema and a table")
    if not possible:
        raise BadName(_TOO_LONG)
    with_schema = [one for one in possible if one.schema is not None]
    certain = possible[0] if len(parts) == 1 else with_schema[0] if len(with_schema) == 1 else None
    return Patterns(certain, possible)


@lru_cache(maxsize=256)
def canonical(text: str) -> str:
    """The canonical way to write the name or pattern; the text itself if it is ambiguous. Raises BadName."""
    pattern = parse_pattern(text).certain
    if pattern is None:
        return text
    schema = "" if pattern.schema is None else f"{_quoted(pattern.schema)}."
    return f"{schema}{'*' if pattern.table is None else _quoted(pattern.table)}"


@lru_cache(maxsize=4096)
def exact(name: str) -> TableName:
    """Parses a name that qualified() wrote."""
    return as_written(name)[0]


@lru_cache(maxsize=1024)
def could_mean(name: str) -> Sequence[TableName]:
    """Every table that a trigger may mean by the name: with or without schema, quoted or not."""
    # A quoted name may also be an unquoted one that contains the quotes.
    return tuple(dict.fromkeys((*_quoted_readings(name), *_plain_readings(name), TableName(None, name))))


def as_written(name: str) -> Sequence[TableName]:
    """The meanings of a change's name without asking a database: schema.table, else all possible ones."""
    readings = _quoted_readings(name) or could_mean(name)
    with_schema = [one for one in readings if one.schema is not None]
    return with_schema if len(with_schema) == 1 else readings


def split_list(text: str) -> list[str]:
    """Splits at commas, except within double quotes."""
    items, begin, is_quoted = [], 0, False
    for at, character in enumerate(text):
        if character == '"':
            is_quoted = not is_quoted
        elif character == "," and not is_quoted:
            items.append(text[begin:at])
            begin = at + 1
    return [item.strip(SQL_SPACE) for item in (*items, text[begin:])]


def _only(pattern: Pattern) -> Patterns:
    return Patterns(pattern, (pattern,))


_Part = tuple[str, bool]  # and whether it is quoted


def _split(text: str) -> Sequence[_Part]:
    if len(text) > (LIMIT_CHARACTERS if '"' in text else PLAIN_LIMIT_CHARACTERS):
        raise BadName(_TOO_LONG)
    parts: list[_Part] = []
    at = 0
    while found := _PART.match(text, at):
        quoted, plain = found.groups()
        parts.append((plain, False) if quoted is None else (quoted.replace('""', '"'), True))
        at = found.end()
        if at == len(text):
            return parts
        if text[at] != ".":
            break
        at += 1
    raise BadName('each part must be a name, or be in double quotes with "" for a quote')


def _readings(parts: Sequence[_Part]) -> Iterator[TableName]:
    """Each table that the parts could mean, without names that are too long."""
    if not any(is_quoted for _, is_quoted in parts):
        yield from _plain_readings(".".join(text for text, _ in parts))
        return
    # A quoted part, the first or the last, is a name by itself.
    for at in sorted({1, len(parts) - 1} - {0, len(parts)}):
        schema, table = _joined(parts[:at]), _joined(parts[at:])
        if schema is not None and table is not None and _may_be(schema) and _may_be(table):
            yield TableName(schema, table)
    whole = _joined(parts)
    if whole is not None and _may_be(whole):
        yield TableName(None, whole)


def _quoted_readings(name: str) -> Sequence[TableName]:
    """The readings with a quoted part; none if the quotes are misplaced."""
    if '"' in name:
        with contextlib.suppress(BadName):
            return tuple(_readings(_split(name)))
    return ()


def _plain_readings(name: str) -> Iterator[TableName]:
    """The readings without quotes: any dot may separate schema and table."""
    if len(name) > PLAIN_LIMIT_CHARACTERS:
        return
    first = max(1, len(name) - 1 - NAME_LIMIT_CHARACTERS)
    at = name.find(".", first, len(name) - 1)
    while 0 <= at <= NAME_LIMIT_CHARACTERS:
        yield TableName(name[:at], name[at + 1 :])
        at = name.find(".", at + 1, len(name) - 1)
    if _may_be(name):
        yield TableName(None, name)


def _may_be(name: str) -> bool:
    return len(name) <= NAME_LIMIT_CHARACTERS


def _joined(parts: Sequence[_Part]) -> str | None:
    """Joins the parts to one name with dots, if none of them is quoted."""
    if len(parts) > 1 and any(is_quoted for _, is_quoted in parts):
        return None
    return ".".join(text for text, _ in parts)


def _quoted(part: str) -> str:
    return '"' + part.replace('"', '""') + '"' if _NEEDS_QUOTES.search(part) else part
