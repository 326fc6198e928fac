"""SQL's LIKE: a pattern in, a test of a text out.

`*` also means any text, as in PostgREST; a backslash escapes the next character. A test takes linear time: the pieces
between stars are searched from left to right. Only a `_` between other characters needs a regular expression, whose
time is the text's length times the piece's: the caller bounds `cost` and the length of the texts that are searched.
"""

import re
from functools import cached_property


def ends_in_escape(pattern: str) -> bool:
    """Whether the pattern is invalid: its last backslash escapes nothing."""
    return (len(pattern) - len(pattern.rstrip("\\"))) % 2 == 1


class _Piece:
    """The part between two stars: a fixed number of characters."""

    def __init__(self, characters: list[str | None]) -> None:
        """None means any character."""
        self.length = len(characters)
        core = list(characters)
        while core and core[-1] is None:
            core.pop()
        self._after = self.length - len(core)
        self._before = next((at for at, character in enumerate(core) if character is not None), 0)
        self._core = core[self._before :]
        self._text = "".join(character for character in self._core if character is not None)
        # How many characters are compared at each position of a text; 0 if the search is linear.
        self.cost = len(self._core) if len(self._text) < len(self._core) else 0

    @cached_property
    def _expression(self) -> re.Pattern[str] | None:
        """Compiled for the first text: by then the caller has checked `cost`."""
        return re.compile("".join(map(_expression, self._core)), re.DOTALL) if self.cost else None

    def is_at(self, text: str, begin: int) -> bool:
        if begin + self.length > len(text):
            return False
        begin += self._before
        return (
            self._expression.match(text, begin) is not None if self._expression else text.startswith(self._text, begin)
        )

    def end_after(self, text: str, begin: int) -> int:
        """The end of its first occurrence from `begin` on; beyond the text if there is none."""
        begin += self._before
        if self._expression:
            found = self._expression.search(text, begin)
            end = found.end() if found else len(text) + 1
        else:
            at = text.find(self._text, begin)
            end = at + len(self._text) if at >= 0 else len(text) + 1
        return end + self._after


class Like:
    """A compiled pattern, for which ends_in_escape() must be false."""

    def __init__(self, pattern: str) -> None:
        pieces: list[list[str | None]] = [[]]
        for escaped, plain in re.findall(r"\\(.)|(.)", pattern, re.DOTALL):
            if plain in ("%", "*"):
                pieces.append([])
            else:
                pieces[-1].append(None if plain == "_" else escaped or plain)
        self._first, *others = map(_Piece, pieces)
        self._last = others.pop() if others else None
        self._middle = [piece for piece in others if piece.length]
        self.cost = sum(piece.cost for piece in self._middle)
        self.is_search = bool(self._middle)

    def __call__(self, text: str, reach: int | None = None) -> bool | None:
        """Whether the text matches. None is undecided: a text longer than `reach` is compared only at its ends."""
        if not self._first.is_at(text, 0):
            return False
        if self._last is None:
            return len(text) == self._first.length
        begin, last_begin = self._first.length, len(text) - self._last.length
        if begin > last_begin or not self._last.is_at(text, last_begin):
            return False
        if self._middle and reach is not None and len(text) > reach:
            return None
        for piece in self._middle:
            begin = piece.end_after(text, begin)
            if begin > last_begin:
                return False
        return True


def _expression(character: str | None) -> str:
    return "." if character is None else re.escape(character)
