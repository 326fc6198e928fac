"""Tables with dots and quotes in their names, on every road through the server: each is itself and no other."""

import asyncio
import json
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from tornado.testing import ExpectLog, gen_test

from changefeed.journal.installation import CannotWatch, Installation
from changefeed.journal.watching import NoSuchTable, Watching
from settings.sources import load_settings
from tests import postgres
from tests.access_case import AccessTestCase, issued
from tests.feed_case import FeedTestCase, message

EU = '"sales"."eu.orders"'
OTHER = '"sales.eu".orders'
MAKE = f"""
    CREATE SCHEMA "sales"; CREATE SCHEMA "sales.eu"; CREATE SCHEMA "Odd Schema"; CREATE SCHEMA "a,b";
    CREATE TABLE {EU} (id int); CREATE TABLE {OTHER} (id int); CREATE TABLE public."Odd ""Name" (id int);
    CREATE TABLE "Odd Schema".t (id int); CREATE TABLE "Odd Schema"."*" (id int); CREATE TABLE "a,b".c (id int)
"""


def path_of(name: str) -> str:
    return f"/api/tables/{urllib.parse.quote(name, safe='')}/watch"


class OddNamesTest(FeedTestCase):
    flags = ("--watch", 'public."Odd ""Name"', "--watch", '"Odd Schema".*')

    def prepare_database(self) -> None:
        self.write(MAKE)

    async def watched(self) -> set[tuple[str, str]]:
        return set(self.write("SELECT schema_name, table_name FROM changefeed.status()"))

    @gen_test
    async def test_what_the_settings_name_as_sql_does_is_watched(self):
        await self.feed.watching.start()
        assert await self.watched() == {("public", 'Odd "Name'), ("Odd Schema", "t"), ("Odd Schema", "*")}

    def test_a_comma_within_quotes_divides_no_names_in_the_environment(self):
        settings = load_settings((), {"WATCH": '"a,b".c,public.orders'}, Path("/nonexistent"))
        assert settings.watch == ("a,b.c", "public.orders")

    @gen_test
    async def test_the_switch_takes_a_name_in_quotes_and_ends_no_other_table(self):
        for name in ('sales."eu.orders"', '"sales.eu".orders'):
            said = await self.fetch_json(path_of(name), method="PUT", body="")
            assert (said["table"], said["has_changed"]) == (name, True)
        await self.fetch_json(path_of('"sales"."eu.orders"'), method="DELETE")
        assert await self.watched() == {("sales.eu", "orders")}

    @gen_test
    async def test_control_characters_and_spaces_in_names_are_taken_as_they_are_sent(self):
        self.write('CREATE TABLE "\x01t" (" " int, "\x01" int, "\x1f" int, "a\tb" int)')
        await self.fetch_json(path_of('public."\x01t"'), method="PUT", body="")
        self.write('INSERT INTO "\x01t" VALUES (1, 2, 3, 4)')
        while self.feed.hub.published < 1:
            await self.feed.follower.until_moved()
        for written, name, value in (('" "', " ", 1), ("\x01", "\x01", 2), ("\x1f", "\x1f", 3), ("a\tb", "a\tb", 4)):
            asked = urllib.parse.urlencode({"table": "public.\x01t", "columns": written})
            assert (await self.fetch_json(f"/api/rows?{asked}"))["rows"] == [{name: value}]
            [change] = (await self.fetch_json(f"/api/changes?{asked}"))["changes"]
            assert change["data"] == {name: value}
            socket = await self.connect(f"/ws?{asked}&replay=1")
            assert json.loads(str(await socket.read_message()))["data"] == {name: value}

    @gen_test
    async def test_control_characters_that_no_name_has_are_refused(self):
        self.write("CREATE TABLE plain (id int)")
        for fields in (
            {"table": "public.plain", "columns": "\x01"},
            {"table": "public.plain", "columns": "\0"},
            {"table": "public.plain", "columns": "\x1fid"},
            {"table": "public.plain\x01"},
            {"table": "\0"},
            {"action": "\0INSERT"},
            {"replay": "1\x01"},
        ):
            for path in ("/api/changes", "/api/rows", "/events"):
                answer = await self.http_client.fetch(
                    self.get_url(f"{path}?{urllib.parse.urlencode(fields)}"), raise_error=False
                )
                assert answer.code in (400, 404), (path, fields, answer.body)

    @gen_test
    async def test_an_ambiguous_name_is_refused_with_its_meanings(self):
        for method, body in (("PUT", ""), ("DELETE", None)):
            said = await self.fetch_json(path_of("sales.eu.orders"), 409, method=method, body=body)
            assert said["error"]["code"] == "ambiguous_table"
            assert 'sales."eu.orders" or "sales.eu".orders' in said["error"]["message"]
        with pytest.raises(CannotWatch, match="may mean several tables"):
            await self.feed.watching.watch("sales.eu.orders")
        self.write(f"DROP TABLE {OTHER}")
        said = await self.fetch_json(path_of("sales.eu.orders"), method="PUT", body="")
        assert said["table"] == 'sales."eu.orders"'

    @gen_test
    async def test_each_is_asked_for_and_counted_by_itself(self):
        self.watch(EU)
        self.watch(OTHER)
        socket = await self.connect(f"/ws?table={urllib.parse.quote(EU)}", protocol=True)
        await message(socket, "hello")
        self.write(f"INSERT INTO {OTHER} VALUES (1); INSERT INTO {EU} VALUES (2)")
        [change] = (await message(socket, "changes"))["changes"]
        assert (change["schema"], change["table"], change["data"]) == ("sales", "eu.orders", {"id": 2})
        totals = (await self.fetch_json("/api/activity"))["totals"]
        assert totals.keys() == {'sales."eu.orders"', '"sales.eu".orders'}


class NoTableTest(FeedTestCase):
    @gen_test
    async def test_an_ambiguous_name_of_missing_tables_is_refused(self):
        watching = Watching(self.feed.request_pool, Installation(self.feed.request_pool), ("a.b.c",), 1.0, 1)
        with pytest.raises(NoSuchTable, match=r"--watch a.b.c: the database has no such table"):
            await watching.start()


class OddRightsTest(AccessTestCase):
    more_flags = ("--payload", "full")

    def prepare_database(self) -> None:
        super().prepare_database()
        self.write(
            "CREATE SCHEMA hr; CREATE TABLE hr.salaries (id int, amount int); INSERT INTO hr.salaries VALUES (1, 5)"
        )
        self.write('CREATE TABLE hr."pay.roll" (id int, amount int)')
        self.watch('hr."pay.roll"')
        self.watch_with_notify("hr.salaries")

    async def told(self, tables: dict[str, Any]) -> list[Any]:
        """What is sent of one change of each table of hr, and of one that may be seen."""
        rights = {"tables": {**tables, "public.orders": {}}}
        socket = await self.connect("/ws", Authorization=f"Bearer {issued(rights)}")
        self.write('UPDATE hr.salaries SET amount = amount + 1; INSERT INTO hr."pay.roll" VALUES (1, 555)')
        self.last = getattr(self, "last", 0) + 1
        self.order(self.last)
        found: list[Any] = []
        while not found or found[-1]["table"] != "orders":
            found.append(await message(socket))
        return sorted([one["table"], one["data"]] for one in found[:-1])

    @gen_test
    async def test_a_limit_holds_for_bare_and_for_dotted_names(self):
        only_ids = [["pay.roll", {"id": 1}], ["salaries", {"id": 1}]]
        assert await self.told({"*": {}, "hr.*": {"columns": ["id"]}}) == only_ids
        assert await self.told({"hr.*": {"columns": ["id"]}}) == [only_ids[0]]  # public.salaries, too
        self.write("DROP TABLE salaries")
        await self.feed.catalog.reread()
        assert await self.told({"hr.*": {"columns": ["id"]}}) == only_ids


class OneCannotBeWatchedTest(FeedTestCase):
    flags = ("--watch", "public.*")

    def prepare_database(self) -> None:
        self.write("CREATE TABLE aaa (id int); CREATE TABLE zzz (id int)")
        self.watch("public.zzz")
        self.write("SELECT changefeed.unwatch('zzz')")
        # What another role's table does to a server without a right to it, to whoever asks.
        self.write(
            "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN IF EXISTS (SELECT FROM "
            "pg_event_trigger_ddl_commands() AS c WHERE c.object_identity LIKE '%public.aaa') "
            "THEN RAISE EXCEPTION 'aaa is not yours'; END IF; END $$;"
            "CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('CREATE TRIGGER') EXECUTE FUNCTION refuse()"
        )

    @gen_test
    async def test_it_stops_no_other_and_is_reported_once(self):
        with ExpectLog("changefeed.watching", "not watched: public.aaa: aaa is not yours"):
            await self.feed.watching.start()
        assert self.write("SELECT table_name FROM changefeed.status()") == [("zzz",)]
        await self.feed.watching._maintain_once()  # and conftest.py fails a test that logs a warning
        said = (await self.fetch_json("/api/status"))["not_watched"]
        assert said == [{"schema": "public", "table": "aaa", "reason": "public.aaa: aaa is not yours"}]
        self.write("DROP EVENT TRIGGER refuse")
        await self.feed.watching._maintain_once()
        assert (await self.fetch_json("/api/status"))["not_watched"] == []

    @gen_test
    async def test_one_that_the_settings_name_itself_is_an_error(self):
        watching = Watching(
            self.feed.request_pool, Installation(self.feed.request_pool), ("public.*", "public.aaa"), 1.0, 1
        )
        with ExpectLog("changefeed.watching", "not watched"), pytest.raises(CannotWatch, match="aaa is not yours"):
            await watching.start()


class OptionsTest(AccessTestCase):
    def prepare_database(self) -> None:
        super().prepare_database()
        self.write("CREATE TABLE people (id int, customer_id int, ssn text, phone text)")
        self.watch("public.people", ", omit => '{ssn}', hash => '{phone}', row_limit => 9, strict => true")
        self.write("CREATE TABLE plain (id int)")

    async def put(self, rights: Any, said: Any, method: str = "PUT", table: str = "public.people") -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {issued(rights)}"}
        body = None if method == "DELETE" else "" if said is None else json.dumps(said)
        answer = await self.http_client.fetch(
            self.get_url(path_of(table)), raise_error=False, method=method, headers=headers, body=body
        )
        return answer.code, json.loads(answer.body).get("error", {}).get("message", "")

    def options(self) -> list[Any]:
        return list(
            self.write("SELECT omit, hash, row_limit, strict FROM changefeed.status() WHERE table_name = 'people'")
        )

    @gen_test
    async def test_what_a_put_does_not_name_stays(self):
        full = {"tables": {"*": {}}, "channels": ["*"], "admin": True}
        for said in (None, {}):
            assert (await self.put(full, said))[0] == 200
            assert self.options() == [(["ssn"], ["phone"], 9, True)]
        assert (await self.put(full, {"row_limit": None, "strict": False}))[0] == 200
        assert self.options() == [(["ssn"], ["phone"], None, False)]
        assert (await self.put(full, {"omit": []}))[0] == 200
        assert self.options() == [([], ["phone"], None, False)]

    @gen_test
    async def test_several_puts_at_once_lose_no_option(self):
        full = {"tables": {"*": {}}, "channels": ["*"], "admin": True}
        asked = ({"row_limit": 5}, {"strict": False}, {"omit": ["ssn", "customer_id"]}, {"hash": []})
        for _ in range(3):
            self.write("SELECT changefeed.watch('people', '{ssn}', 9, true, '{phone}')")
            answers = await asyncio.gather(*[self.put(full, one) for one in asked])
            assert [status for status, _ in answers] == [200] * len(asked), answers
            assert self.options() == [(["ssn", "customer_id"], [], 5, False)]

    @gen_test
    async def test_a_put_that_would_forget_what_another_hides_is_refused_meanwhile(self):
        """Its rights were checked against options that are gone by the time they are applied."""
        full = {"tables": {"*": {}}, "channels": ["*"], "admin": True}
        some = {"tables": {"public.people": {}}, "admin": True}
        for method in ("PUT", "DELETE"):
            self.write("SELECT changefeed.watch('people', row_limit => 9)")
            answers = await asyncio.gather(
                self.put(full, {"omit": ["ssn"]}), self.put(some, {"row_limit": 5}, method), self.put(full, {})
            )
            assert answers[0][0] == 200
            assert self.options()[0][0] == ["ssn"]

    @gen_test
    async def test_a_put_hides_no_other_column_that_gets_the_name_meanwhile(self):
        self.write("SELECT changefeed.watch('people', omit => '{ssn}')")
        some = {"tables": {"public.people": {}}, "admin": True}
        owner = postgres.connect(self.conninfo)
        with owner.cursor() as db_cursor:
            db_cursor.execute("BEGIN; ALTER TABLE people RENAME ssn TO old_ssn; ALTER TABLE people RENAME phone TO ssn")
            waiting = asyncio.gather(*[self.put(some, {"row_limit": limit}) for limit in (5, 6)])
            while not self.write("SELECT 1 FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
                await asyncio.sleep(0)  # lets the requests begin
            db_cursor.execute("COMMIT")
        owner.close()
        assert 403 in [status for status, _ in await waiting]
        self.write("INSERT INTO people (old_ssn) VALUES ('unseen')")
        assert "unseen" not in str(self.write("SELECT data FROM changefeed.journal"))

    @gen_test
    async def test_a_partial_admin_exposes_no_hidden_column(self):
        some = {"tables": {"public.people": {}, "public.plain": {}}, "admin": True}
        for said in ({"omit": []}, {"hash": []}, {"omit": [], "hash": ["ssn", "phone"]}):
            status, reason = await self.put(some, said)
            assert status == 403, said
            assert "would expose a column" in reason
        assert (await self.put(some, None, "DELETE"))[0] == 403
        assert self.options() == [(["ssn"], ["phone"], 9, True)]
        assert (await self.put(some, {"omit": ["ssn", "phone"], "hash": []}))[0] == 200
        assert self.options() == [(["ssn", "phone"], [], 9, True)]
        for method in ("PUT", "DELETE"):
            assert (await self.put(some, None, method, "public.plain"))[0] == 200

    @gen_test
    async def test_an_admin_of_some_columns_learns_no_name_of_another(self):
        bounded = {"tables": {"public.people": {"columns": ["id"]}}, "admin": True}
        for option in ("omit", "hash"):
            for column in ("ssn", "phone", "customer_id", "nosuch"):
                told = await self.put(bounded, {option: [column]})
                assert told == (409, f"public.people has no column {column}")
        assert (await self.put(bounded, {"omit": ["id"], "hash": []}))[0] == 200
        assert self.options() == [(["id", "ssn"], ["phone"], 9, True)]
        headers = {"Authorization": f"Bearer {issued(bounded)}"}
        [status] = (await self.fetch_json("/api/status", headers=headers))["watched"]
        assert (status["omit"], status["hash"]) == (["id"], [])

    @gen_test
    async def test_a_column_that_is_gone_is_not_replaced_by_the_one_that_has_its_name(self):
        full = {"tables": {"*": {}}, "channels": ["*"], "admin": True}
        some = {"tables": {"public.people": {}}, "admin": True}
        for option, column in (("omit", "ssn"), ("hash", "phone")):
            self.write(f"ALTER TABLE people RENAME {column} TO other; ALTER TABLE people ADD {column} text")
            status, reason = await self.put(full, {"row_limit": 5})
            assert (status, f"the column {column} that was to be left out or hashed is gone" in reason) == (409, True)
            for said in (None, {"omit": ["ssn"], "hash": ["phone"]}):
                status, reason = await self.put(some, said)
                assert (status, "was renamed or dropped" in reason) == (403, True)
            assert self.options() == [(["ssn"], ["phone"], 9, True)]
            assert (await self.put(full, {option: ["other"]}))[0] == 200
            self.write(f"ALTER TABLE people DROP {column}; ALTER TABLE people RENAME other TO {column}")
            assert (await self.put(full, {option: [column]}))[0] == 200

    @gen_test
    async def test_nor_by_a_refusal_of_postgresql(self):
        bounded = {"tables": {"public.people": {"columns": ["id"]}, "public.part": {}}, "admin": True}
        self.write("CREATE TABLE whole (id int) PARTITION BY LIST (id)")
        self.write("CREATE TABLE part PARTITION OF whole DEFAULT")
        self.write("ALTER TABLE people RENAME ssn TO number")
        for table, hidden in (("people", "ssn"), ("part", "whole")):
            status, reason = await self.put({"tables": {"*": {}}, "admin": True}, {}, table=f"public.{table}")
            assert (status, hidden in reason) == (409, True)
            status, reason = await self.put(bounded, {}, table=f"public.{table}")
            assert (status, hidden in reason) == (409, False)
            assert "the log says why" in reason


class ErrorsTest(AccessTestCase):
    @gen_test
    async def test_only_the_message_of_an_error_of_the_database_is_logged(self):
        self.write(
            "CREATE OR REPLACE FUNCTION changefeed.status() RETURNS TABLE (schema_name text, table_name text, is_complete "
            "boolean, omit text[], row_limit bigint, strict boolean, partitions bigint, hash text[]) LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE 'no' USING DETAIL = 'a secret row', HINT = 'ask'; END $$"
        )
        for path, logger in (
            ("/api/changes?table=nosuch", "changefeed.catalog"),
            ("/api/status", "handlers.errors"),
            ("/api/changes?table=orders", None),  # which the catalog has said
        ):
            with ExpectLog(
                logger or "changefeed",
                "(the .* cannot be .*|could not read the tables): no. HINT: ask",
                required=bool(logger),
            ):
                status, said = await self.ask("full", path)
            assert status == 503, said
            for secret in ("HINT", "ask", "DETAIL", "a secret row", "CONTEXT", "PL/pgSQL"):
                assert secret not in said["error"]["message"]
