"""Makes text from outside safe to show in a log or on a terminal. Knows neither.

Names of tables, messages of PostgreSQL and input of clients may contain characters that control a terminal, end a
line, or reverse the direction of text. They are replaced by their numbers.
"""

import re

# C0, DEL and C1; separators of lines and paragraphs; controls of the direction of text (Unicode, UAX 9); invisible
# characters; halves of surrogate pairs.
_COMMANDS = (
    "\0-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f"
)
COMMAND = re.compile(f"[{_COMMANDS}]")
# A quoted identifier or literal of SQL, as quote_ident() and quote_literal() write them.
_QUOTED = re.compile(r""""(?:[^"]|"")*"|\bE'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'""", re.DOTALL)


def printable(text: str) -> str:
    r"""`text` with \x1b for such a character, \u202e, or \U000e0001."""
    return COMMAND.sub(_number, text)


def json_printable(text: str) -> str:
    """The same for JSON, which keeps its value."""
    return COMMAND.sub(lambda found: _utf16(found[0]), text)


def sql_printable(statement: str) -> str:
    """The same for a statement, which keeps its meaning when it is pasted."""
    return printable(_QUOTED.sub(lambda found: _sql_constant(found[0]), statement))


def _number(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _utf16(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _sql_constant(text: str) -> str:
    if not COMMAND.search(text):
        return text
    if text.startswith("E"):
        return COMMAND.sub(lambda found: f"\\U{ord(found[0]):08x}", text)
    return "U&" + COMMAND.sub(lambda found: f"\\+{ord(found[0]):06x}", text.replace("\\", "\\\\"))
