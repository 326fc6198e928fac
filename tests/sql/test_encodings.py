"""The whole road in databases of other encodings and locales, by tables and columns with letters beyond ASCII."""

import os
from itertools import count
from typing import Any, ClassVar
from unittest import SkipTest, mock
from urllib.parse import quote

import psycopg2
from psycopg2.extensions import make_dsn
from tornado.testing import gen_test

from changefeed.postgres.named_queries import read_script
from tests import postgres
from tests.feed_case import FeedTestCase, message

NUMBERS = count()


class EncodingCase(FeedTestCase):
    """`word` is of letters that the encoding has; I and i are no pair in Turkish."""

    __test__ = False
    encoding: ClassVar[str]
    locale: ClassVar[str] = "LOCALE 'C'"
    word: ClassVar[str]
    column_type: ClassVar[str] = "text"
    prepared: ClassVar[str] = ""

    def new_database(self) -> str:
        name = f"encoded_{os.getpid()}_{next(NUMBERS)}"
        provider = "LOCALE_PROVIDER libc " if "PROVIDER" not in self.locale and postgres.major_version() >= 15 else ""
        try:
            postgres.execute(
                postgres.cluster().conninfo,
                f"CREATE DATABASE {name} ENCODING '{self.encoding}' {provider}{self.locale} TEMPLATE template0",
            )
        except (psycopg2.errors.FeatureNotSupported, psycopg2.errors.SyntaxError):
            raise SkipTest("this PostgreSQL has no locales of ICU") from None
        return str(make_dsn(postgres.cluster().conninfo, dbname=name, client_encoding="UTF8"))

    def prepare_database(self) -> None:
        if self.prepared:
            try:
                self.write(self.prepared)
            except psycopg2.errors.FeatureNotSupported:
                raise SkipTest("this PostgreSQL has no collations of ICU") from None
        self.table, self.column = f"I{self.word}i", f"i{self.word}I"
        self.write(f'CREATE TABLE "{self.table}" (k int, "{self.column}" {self.column_type}) PARTITION BY LIST (k)')
        self.write(f'CREATE TABLE "{self.table}1" PARTITION OF "{self.table}" FOR VALUES IN (1)')

    async def go_the_whole_road(self) -> None:
        name = quote(f'public."{self.table}"', safe="")
        path = f"/api/tables/{name}/watch"
        body = {"method": "PUT", "body": "{}", "headers": {"Content-Type": "application/json"}}
        await self.fetch_json(path, **body)
        self.write(read_script("install.sql"))
        while self.feed.follower.cache is None:
            await self.feed.follower.until_moved()
        client = await self.connect(f"/ws?table={name}", protocol=True)
        await message(client, "hello")
        self.write(f'INSERT INTO "{self.table}" VALUES (1, %s)', (self.word,))
        self.write(f'UPDATE "{self.table}1" SET "{self.column}" = %s', (self.word * 2,))
        self.write(f'CREATE TABLE "{self.table}2" PARTITION OF "{self.table}" FOR VALUES IN (2)')
        self.write(f'INSERT INTO "{self.table}2" VALUES (2, %s)', (self.word,))
        self.write(f'DELETE FROM "{self.table}"')
        changes: list[Any] = []
        while len(changes) < 5:
            changes += (await message(client, "changes"))["changes"]
        assert {change["table"] for change in changes} == {self.table}
        assert [(change["action"], change["data"][self.column]) for change in changes[:3]] == [
            ("INSERT", self.word),
            ("UPDATE", self.word * 2),
            ("INSERT", self.word),
        ]
        assert [change["action"] for change in changes[3:]] == ["DELETE", "DELETE"]
        assert self.write("SELECT table_name, is_complete, partitions FROM changefeed.status()") == [
            (self.table, True, 2)
        ]
        assert self.write("SELECT changefeed.refresh()") == []
        assert self.write("SELECT losses FROM changefeed.journal_status()") == [(0,)]
        page = await self.fetch_json(f"/api/changes?table={name}")
        assert len(page["changes"]) == 5
        await self.fetch_json(path, method="DELETE")
        assert self.write("SELECT FROM changefeed.status()") == []


class TurkishTest(EncodingCase):
    __test__ = True
    encoding, word = "UTF8", "ığ"
    locale = "LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR' LOCALE 'C'"

    @gen_test
    async def test_in_a_turkish_database(self):
        await self.go_the_whole_road()


class NondeterministicTest(EncodingCase):
    __test__ = True
    encoding, word, column_type = "UTF8", "äß", "text COLLATE either"
    prepared = "CREATE COLLATION either (PROVIDER = icu, LOCALE = 'und-u-ks-level1', DETERMINISTIC = false)"

    @gen_test
    async def test_by_a_collation_that_takes_different_texts_for_equal(self):
        await self.go_the_whole_road()


class UTF8Test(EncodingCase):
    __test__ = True
    encoding, word = "UTF8", "ü😀"

    @gen_test
    async def test_utf8(self):
        await self.go_the_whole_road()


class SQLASCIITest(EncodingCase):
    """Which keeps bytes: those of UTF-8, here."""

    __test__ = True
    encoding, word = "SQL_ASCII", "ü😀"

    @gen_test
    async def test_sql_ascii(self):
        await self.go_the_whole_road()

    @gen_test
    async def test_json_with_an_escape_that_the_database_cannot_convert(self):
        """PostgreSQL up to 17 parses none there; such entries keep their places in the order, and stop nothing."""
        self.write("CREATE TABLE t (id int PRIMARY KEY, j json)")
        self.watch("public.t")
        client = await self.connect("/ws?table=public.t", protocol=True)
        await message(client, "hello")
        self.write(r"""INSERT INTO t VALUES (1, '"\u00e9"'), (2, '"\u00e9"')""")
        self.write(r"""UPDATE t SET j = '["\u00e9"]'""")
        self.write("BEGIN; INSERT INTO t VALUES (3, '1'); DELETE FROM t WHERE id = 3; COMMIT")
        with mock.patch("changefeed.journal.entries.logger"), mock.patch("changefeed.ordering.digests.logger"):
            found = []
            while len(found) < 6:
                found += (await message(client, "changes"))["changes"]
        assert [(change["action"], change["data"]["id"]) for change in found] == [
            ("INSERT", 1), ("INSERT", 2), ("UPDATE", 1), ("UPDATE", 2), ("INSERT", 3), ("DELETE", 3)
        ]  # fmt: skip


class Latin1Test(EncodingCase):
    __test__ = True
    encoding, word = "LATIN1", "éß"

    @gen_test
    async def test_latin1(self):
        await self.go_the_whole_road()


class WIN1252Test(EncodingCase):
    __test__ = True
    encoding, word = "WIN1252", "€ž"

    @gen_test
    async def test_win1252(self):
        await self.go_the_whole_road()


class EUCJPTest(EncodingCase):
    __test__ = True
    encoding, word = "EUC_JP", "日本"

    @gen_test
    async def test_euc_jp(self):
        await self.go_the_whole_road()
