"""A filter's text in, the parsed filter out. Knows no column's type.

The syntax is PostgREST's, also that of groups: `or=(status.eq.open,and(total.gt.100,name.not.eq."a,b"))`. A text
is read once, from left to right.
"""

import re
from dataclasses import replace
from typing import NoReturn

from changefeed.selection.filter_kinds import OPERAND_LIMIT_CHARACTERS
from changefeed.selection.filters import NAMED_VALUES, OPERATORS, BadFilter, Condition, Filter, joined, shown
from changefeed.selection.like import ends_in_escape

FILTER_LIMIT_CHARACTERS = OPERAND_LIMIT_CHARACTERS
VALUES_LIMIT = 1_000  # in one list
CONDITIONS_LIMIT = 100  # in one filter's groups
DEPTH_LIMIT = 10  # of groups in groups

_QUOTING = "a value with a comma, a bracket or a quote must be in double quotes"
_OPPOSITE = {"and": "or", "or": "and"}
_GROUP = re.compile(r"(not\.)?(and|or)=\(")
_INNER_GROUP = re.compile(r"(not\.)?(and|or)\(")
_QUOTED_COLUMN = re.compile(r'"((?:[^"]|"")+)"=')
_INNER_FILTER = re.compile(rf'(?:"((?:[^"\\]|\\.)+)"|([^".,=()]+))\.(not\.)?({"|".join(OPERATORS)})\.', re.DOTALL)
_INNER_VALUE = re.compile(r'"((?:[^"\\]|\\.)*)" *|([^",()]*)', re.DOTALL)
_INNER_LIST = re.compile(r'\((?:"(?:[^"\\]|\\.)*"|[^"()])*\)', re.DOTALL)
_SPACES = re.compile(r" *")
_LIST_ITEM = re.compile(r'(?: *"((?:[^"\\]|\\.)*)" *|([^",]*))(?=,|\Z)', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def parse_filter(text: str) -> Condition:
    """Parses a filter or a group; a column's name with a = must be in double quotes. Raises BadFilter."""
    if len(text) > FILTER_LIMIT_CHARACTERS:
        raise BadFilter(f"{shown(text)}: a filter must have at most {FILTER_LIMIT_CHARACTERS} characters")
    if group := _GROUP.match(text):
        return _Groups(text).read(group)
    column, rest = _column(text)
    name, dot, operand = rest.partition(".")
    is_negated = name == "not"
    if is_negated:
        name, dot, operand = operand.partition(".")
    if not column or not dot or name not in OPERATORS:
        raise BadFilter(
            f"{shown(text)} is not a filter: write column=operator.value, such as status=eq.open, or "
            f"or=(status.eq.open,total.gt.100); the operators are {', '.join(OPERATORS)}, each also with not. before it"
        )
    return _filter(column, name, operand, is_negated)


def _column(text: str) -> tuple[str, str]:
    if quoted := _QUOTED_COLUMN.match(text):
        return quoted[1].replace('""', '"'), text[quoted.end() :]
    column, _, rest = text.partition("=")
    return column, rest


def _filter(column: str, operator: str, operand: str, is_negated: bool) -> Filter:
    asked = Filter(column, operator, operand, is_negated)
    if operator == "is" and operand.lower() not in NAMED_VALUES:
        raise BadFilter(f"{shown(asked)}: write one of {', '.join(NAMED_VALUES)} after is.")
    if operator == "like" and ends_in_escape(operand):
        raise BadFilter(f"{shown(operand)}: a pattern must not end with a backslash; write \\\\ for one")
    return replace(asked, values=_list(operand) if operator == "in" else (operand,))


def _list(text: str) -> tuple[str, ...]:
    """Parses (a,b,"c,d") as PostgREST does: within double quotes, a backslash escapes the next character."""
    end = len(text) - 1
    if not (text.startswith("(") and text.endswith(")") and end):
        raise BadFilter(f"{shown(text)} is not a list: write in.(a,b,c)")
    values: list[str] = []
    at = 0
    while at < end:  # at the bracket, or at the comma before a value
        if len(values) == VALUES_LIMIT:
            raise BadFilter(f"{shown(text)}: a list must have at most {VALUES_LIMIT} values")
        found = _LIST_ITEM.match(text, at + 1, end)
        if found is None:
            raise BadFilter(
                f'{shown(text)} is not a list: put a value with a comma or a quote in double quotes: in.("a,b",c)'
            )
        values.append(_text_of(*found.groups()))
        at = found.end()
    return tuple(values)


def _text_of(quoted: str | None, bare: str) -> str:
    return bare if quoted is None else _ESCAPED.sub(r"\1", quoted)


class _Groups:
    """Reads a text that is one group."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._conditions = 0

    def read(self, group: re.Match[str]) -> Condition:
        """`group` is the beginning of the text, up to the first bracket."""
        found = self._group(group, is_negated=False, depth=1)
        if self._at < len(self._text):
            raise BadFilter(f"{shown(self._text)} is not a filter: leave out {shown(self._rest)}")
        return found

    def _group(self, beginning: re.Match[str], *, is_negated: bool, depth: int) -> Condition:
        if depth > DEPTH_LIMIT:
            raise BadFilter(f"{shown(self._text)}: groups may be nested {DEPTH_LIMIT} deep")
        is_negated ^= bool(beginning[1])
        operator = _OPPOSITE[beginning[2]] if is_negated else beginning[2]
        self._at = beginning.end()
        parts = []
        separator = ","
        while separator == ",":
            self._take(_SPACES)
            inner = _INNER_GROUP.match(self._text, self._at)
            parts.append(
                self._group(inner, is_negated=is_negated, depth=depth + 1) if inner else self._condition(is_negated)
            )
            self._take(_SPACES)
            separator = self._text[self._at : self._at + 1]
            if separator not in (",", ")"):
                self._refuse("a comma or a closing bracket", _QUOTING)
            self._at += 1
        return joined(operator, parts)

    def _condition(self, is_negated: bool) -> Filter:
        self._conditions += 1
        if self._conditions > CONDITIONS_LIMIT:
            raise BadFilter(f"{shown(self._text)}: a filter must have at most {CONDITIONS_LIMIT} conditions")
        found = self._take(_INNER_FILTER)
        if found is None and self._text.startswith("not.", self._at):
            # PostgREST wants `not.` only after the column; a column of this name has been tried.
            self._at += len("not.")
            is_negated = not is_negated
            found = self._take(_INNER_FILTER)
        if found is None:
            self._refuse(
                "column.operator.value, or(…) or and(…)",
                f"{_QUOTING}; the operators are {', '.join(OPERATORS)}, also after not.",
            )
        quoted, bare, negation, operator = found.groups()
        if operator != "in":
            value = self._take(_INNER_VALUE)
            operand = _text_of(*value.groups()) if value else ""
        elif listed := self._take(_INNER_LIST):
            operand = listed[0]
        else:
            self._refuse("a list, such as (a,b,c)", _QUOTING)
        return _filter(_text_of(quoted, bare), operator, operand, is_negated ^ bool(negation))

    def _take(self, expression: re.Pattern[str]) -> re.Match[str] | None:
        found = expression.match(self._text, self._at)
        if found:
            self._at = found.end()
        return found

    @property
    def _rest(self) -> str:
        return self._text[self._at : self._at + 40]

    def _refuse(self, expected: str, advice: str) -> NoReturn:
        place = f"instead of {shown(self._rest)}" if self._rest else "at its end"
        raise BadFilter(f"{shown(self._text)} is not a filter: write {expected} {place}; {advice}")
