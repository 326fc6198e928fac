"""A file of named SQL in, its statements by name out. Knows no database.

In sql/ a statement begins with a line `-- name --`, followed by comment lines on its purpose.
"""

import re
from pathlib import Path

SQL_DIR = Path(__file__).parents[2] / "sql"
_INCLUDE = re.compile(r"^\\ir (?P<file>\S+)$", re.MULTILINE)
_SETTING = re.compile(r"^\\(?:set|echo) .*\n", re.MULTILINE)  # psql's own
_NAME = re.compile(r"^-- (?P<name>[a-z0-9 ]+) --$", re.MULTILINE)


def read_script(file_name: str, folder: Path = SQL_DIR) -> str:
    r"""The text of sql/`file_name`, with the files of psql's \\ir inserted."""
    text = (folder / file_name).read_text("utf-8")
    text = _SETTING.sub("", text)
    return _INCLUDE.sub(lambda match: read_script(match["file"], folder), text)


def load_queries(file_name: str) -> dict[str, str]:
    """The statements of sql/`file_name`. Raises ValueError for a duplicate name."""
    _, *parts = _NAME.split((SQL_DIR / file_name).read_text("utf-8"))
    names, statements = parts[::2], [statement.strip() for statement in parts[1::2]]
    if len(set(names)) != len(names):
        raise ValueError(f"sql/{file_name} has a duplicate name")
    return dict(zip(names, statements, strict=True))
