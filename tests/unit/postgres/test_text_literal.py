"""The literal of a text: in the encoding of its connection, and the text itself whatever its backslashes."""

import psycopg2
import pytest

import changefeed.postgres.connection  # noqa: F401  # registers TextLiteral
from tests import postgres

TEXTS = ("größe", chr(92), r"É\' OR true --", "'", r"a\nb", "E'", "")


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1", "WIN1252", "EUC_JIS_2004"])
def test_it_is_itself_in_every_encoding_of_a_client(encoding: str):
    connection = postgres.connect(postgres.new_database())
    try:
        connection.set_client_encoding(encoding)
        with connection.cursor() as db_cursor:
            for text in TEXTS:
                db_cursor.execute("SELECT %s::text, (%s::text[])[1]", (text, [text]))
                assert db_cursor.fetchone() == (text, text)
    finally:
        connection.close()


def test_a_text_that_the_encoding_does_not_have_is_refused():
    connection = postgres.connect(postgres.new_database())
    try:
        connection.set_client_encoding("LATIN1")
        with connection.cursor() as db_cursor, pytest.raises(UnicodeEncodeError):
            db_cursor.execute("SELECT %s", ("☃",))
    finally:
        connection.close()


def test_a_text_with_nul_is_refused():
    with pytest.raises(ValueError, match="NUL"):
        psycopg2.extensions.adapt("a\0b").getquoted()
