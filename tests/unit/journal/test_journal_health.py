"""The journal's health: a failure or a long silence is a trouble, reported once, and over with the next answer."""

import asyncio
import logging
from unittest import mock

import pytest
from tornado.testing import ExpectLog

from changefeed.journal import journal_health
from changefeed.journal.journal_health import JournalHealth
from changefeed.postgres.pool import DatabaseUnavailable, waiting


class Health(JournalHealth):
    """Keeps what `trouble` was at each on_state()."""

    def __init__(self) -> None:
        self.states: list[str | None] = []
        self.changed = asyncio.Event()
        super().__init__(self._on_change)
        self.recover(has_journal=True)
        self.states.clear()

    def _on_change(self) -> None:
        self.states.append(self.trouble)
        self.changed.set()


def test_it_is_in_trouble_until_the_first_answer():
    health = JournalHealth()
    assert health.trouble == "the journal has not been read yet"
    health.recover(has_journal=True)
    assert health.trouble is None


@pytest.mark.parametrize(("error", "level"), [(DatabaseUnavailable("gone"), 20), (ValueError("gone"), 30)])
def test_the_same_failure_is_reported_once(error: Exception, level: int):
    health = Health()
    with ExpectLog("changefeed.follower", "the journal cannot be read: gone; trying again", level=level):
        health.fail(error)
    health.fail(error)
    assert health.states == ["the journal cannot be read: gone"]
    with ExpectLog("changefeed.follower", "the journal can be read again", level=20):
        health.recover(has_journal=True)
    health.recover(has_journal=True)
    assert health.states == ["the journal cannot be read: gone", None]


def test_without_a_journal_nothing_can_be_read_again(caplog: pytest.LogCaptureFixture):
    health = Health()
    with ExpectLog("changefeed.follower", "the journal cannot be read: gone", level=20):
        health.fail(DatabaseUnavailable("gone"))
    caplog.clear()
    with caplog.at_level(logging.INFO, "changefeed.follower"):
        health.recover(has_journal=False)
    assert (health.trouble, caplog.messages) == (None, [])


def test_a_long_silence_is_a_trouble_until_the_answer():
    health = Health()

    async def ask() -> None:
        health.changed.clear()
        with health.reading(), waiting.get()():
            await health.changed.wait()
            assert (health.trouble or "").startswith("the journal has not answered for")
        assert health.trouble is None

    with (
        mock.patch.object(journal_health, "STALLED_SECONDS", 0.0),
        ExpectLog("changefeed.follower", "the journal (has not answered for|answers again, after)", level=20),
    ):
        asyncio.run(ask())
    assert [state is None for state in health.states] == [False, True]


def test_long_work_between_two_answers_is_no_silence():
    health = Health()

    async def read() -> None:
        with health.reading():
            for _ in range(3):
                with waiting.get()():
                    pass
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert health.trouble is None

    with mock.patch.object(journal_health, "STALLED_SECONDS", 0.0):
        asyncio.run(read())
    assert health.states == []
