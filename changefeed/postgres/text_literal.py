"""A str in, its literal in SQL out, which means the same whatever standard_conforming_strings is. Knows no connection.

psycopg2's own does not: it takes the setting of the connection's start for one half of the work, and the present one
for the other. A pooler, a role or a statement may change it in between; then a value's backslash ends the literal.
"""

import psycopg2.extensions


class TextLiteral:
    """How psycopg2 writes a str in every statement of this process."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._encoding = "utf-8"

    def prepare(self, connection: psycopg2.extensions.connection) -> None:
        """Called by psycopg2: the text is written in the connection's encoding."""
        self._encoding = psycopg2.extensions.encodings[connection.encoding]

    def getquoted(self) -> bytes:
        if "\0" in self._text:
            raise ValueError("A string literal cannot contain NUL (0x00) characters.")
        quoted = self._text.replace("'", "''")
        if "\\" in quoted:
            return f" E'{quoted.replace(chr(92), chr(92) * 2)}'".encode(self._encoding)
        return f"'{quoted}'".encode(self._encoding)
