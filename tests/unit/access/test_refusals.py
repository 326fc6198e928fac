"""Why tokens are refused, in the log: a line a minute of each reason, with a count; and in a metric."""

import logging
from unittest.mock import patch

import pytest
from tornado.testing import gen_test

from handlers.access import refusals
from handlers.access.refusals import INTERVAL_SECONDS, TOKENS_REFUSED, Refusals
from process.shared_numbers import SharedNumbers
from tests.access_case import RIGHTS, AccessTestCase, issued, token_of
from tests.feed_case import message


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_reason_is_logged_once_a_minute_with_how_many_there_were(caplog: pytest.LogCaptureFixture):
    clock, numbers = Clock(), SharedNumbers()
    told = Refusals(numbers, clock)
    with caplog.at_level(logging.INFO):
        for _ in range(1000):
            told.tell("bad_token", "the token is refused: Signature verification failed", "InvalidSignatureError")
        told.tell("token_expired", "the token has expired; get a new one")
        assert len(caplog.records) == 2
        clock.now = INTERVAL_SECONDS
        told.tell("bad_token", "the token is refused: Signature verification failed", "InvalidSignatureError")
    assert [record.getMessage() for record in caplog.records] == [
        "refused 1 with a token (bad_token): the token is refused: Signature verification failed",
        "refused 1 with a token (token_expired): the token has expired; get a new one",
        "refused 1000 with a token (bad_token): the token is refused: Signature verification failed",
    ]
    assert numbers.everywhere()[0][TOKENS_REFUSED, "bad_token"] == 1001


class RefusedTest(AccessTestCase):
    @gen_test
    async def test_refusals_are_logged_and_counted_without_tokens(self):
        tokens = {
            "bad_token": [token_of("wrong"), issued({"table": {}}), issued(RIGHTS["full"], aud="others"), "x" * 9000],
            "token_expired": [token_of("expired")],
            "no_rights": [token_of("nothing"), issued({"tables": {}})],
        }
        with self.assertLogs(refusals.logger, logging.INFO) as logged:
            for code, refused in tokens.items():
                for token in refused:
                    _, said = await self.ask("none", "/api/tables", headers={"Authorization": f"Bearer {token}"})
                    assert said["error"]["code"] == code
        text = "\n".join(logged.output)
        for code, refused in tokens.items():
            assert f"({code})" in text
            assert self.feed.slot.numbers.number(TOKENS_REFUSED, code).value == len(refused)
            for token in refused:
                assert (token or "") not in text
        for why in ("audience", "Not enough segments", "claim changefeed", "has expired"):
            assert why in text

    @gen_test
    async def test_a_filter_that_cannot_be_checked_is_logged_and_the_holder_learns_of_it(self):
        for kind, condition in (("no column", "custmer_id=eq.42"), ("no number", "id=eq.abc"), ("a text", "note=gt.5")):
            rights = {"tables": {"public.orders": {"columns": ["id"], "filter": [condition]}}}
            column = condition.partition("=")[0]
            for path in ("/api/changes", "/api/changes?table=orders", "/api/rows?table=orders", "/events?table=orders"):
                headers = {"Authorization": f"Bearer {issued(rights)}"}
                every = patch.object(refusals, "INTERVAL_SECONDS", 0.0)
                with every, self.assertLogs(refusals.logger, logging.INFO) as logged:
                    status, said = await self.ask("none", path, headers=headers)
                assert (status, said["error"]["code"]) == (400, "unknown_table"), (kind, path)
                assert "your token gives nothing of public.orders: its filter cannot" in said["error"]["message"]
                assert column not in said["error"]["message"]  # the token may not give that column
                assert f"(unchecked_right): filters cannot be checked on {column} of public.orders" in logged.output[0]

    @gen_test
    async def test_a_filter_that_cannot_be_checked_takes_nothing_from_other_tables(self):
        rights = {"tables": {"public.orders": {"filter": ["custmer_id=eq.42"]}, "public.salaries": {}}}
        headers = {"Authorization": f"Bearer {issued(rights)}"}
        with self.assertLogs(refusals.logger, logging.INFO) as logged:
            assert (await self.ask("none", "/api/changes", headers=headers))[0] == 200
        assert "custmer_id of public.orders" in logged.output[0]
        socket = await self.connect("/ws/activity", **headers)
        await message(socket, "hello")
        assert "nothing of public.orders" in (await message(socket, "error"))["message"]

    @gen_test
    async def test_a_right_that_can_no_longer_be_checked_is_logged_whatever_the_client_speaks(self):
        for number, (is_protocol, others) in enumerate(((True, {}), (False, {}), (False, {"public.salaries": {}}))):
            rights = {"tables": {"public.orders": {"filter": [f"customer_id=gt.{number}"]}, **others}}
            await self.feed.catalog.until_read()
            await self.connect("/ws", protocol=is_protocol, Authorization=f"Bearer {issued(rights)}")
            every = patch.object(refusals, "INTERVAL_SECONDS", 0.0)
            with every, self.assertLogs(refusals.logger, logging.INFO) as logged:
                self.write("ALTER TABLE orders ALTER customer_id TYPE text")
                await self.feed.catalog.reread()
                while not logged.output:
                    await self.feed.follower.until_moved()
            assert "(unchecked_right): filters cannot be checked on customer_id of public.orders" in logged.output[0]
            self.write("ALTER TABLE orders ALTER customer_id TYPE bigint USING customer_id::bigint")
            await self.feed.catalog.reread()

    @gen_test
    async def test_clients_learn_that_a_new_type_of_a_column_defeats_their_filter(self):
        rights = {"tables": {"public.orders": {"filter": ["customer_id=gt.41"]}}}
        socket = await self.connect("/ws", protocol=True, Authorization=f"Bearer {issued(rights)}")
        await message(socket, "hello")
        with self.assertLogs(refusals.logger, logging.INFO) as logged:
            self.write("ALTER TABLE orders ALTER customer_id TYPE text")
            await self.feed.catalog.reread()
            assert "nothing of public.orders" in (await message(socket, "error"))["message"]
        assert "customer_id of public.orders" in logged.output[0]
