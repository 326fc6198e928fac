"""When the server is ready, and the state of PostgreSQL that it reports."""

from types import SimpleNamespace
from typing import Any, cast

from changefeed.postgres.listener import ListenerState
from handlers.delivery.readiness import Readiness
from tests.unit.delivery.ground import MOMENT


def test_a_server_that_cannot_read_the_journal_is_not_ready():
    listener: Any = SimpleNamespace(
        state=ListenerState.LISTENING, since=MOMENT, reason=None, is_ready=True, not_ready_reason="deaf"
    )
    follower: Any = SimpleNamespace(trouble=None, cache=None)
    installation: Any = SimpleNamespace(is_removed=False)
    readiness = Readiness(listener, follower, installation, "shop", needs_journal=False)
    assert (readiness.trouble, readiness.database_state()["state"]) == (None, "listening")
    follower.trouble = "the journal cannot be read"
    assert readiness.trouble == "the journal cannot be read"
    hidden = readiness.database_state(is_full=False)
    assert (hidden["state"], hidden["name"], hidden["reason"]) == ("lost", "PostgreSQL", "")
    listener.is_ready = False
    assert "receives no notifications from PostgreSQL: deaf" in cast(str, readiness.trouble)
