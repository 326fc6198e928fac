"""Why tokens are refused, in the log: a line a minute of each reason, with a count; and in a metric."""

import logging

import pytest
from tornado.testing import gen_test

from handlers.access import refusals
from handlers.access.refusals import INTERVAL_SECONDS, TOKENS_REFUSED, Refusals
from process.shared_numbers import SharedNumbers
from tests.access_case import RIGHTS, AccessTestCase, issued, token_of


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
