"""The state of the connection to PostgreSQL, and whether a commit now would reach clients. Knows no request."""

from changefeed.change.times import iso
from changefeed.journal.follower import Follower
from changefeed.journal.installation import Installation
from changefeed.postgres.listener import Listener, ListenerState


class Readiness:
    """`database_name` is for display only. `needs_journal` says that no NOTIFY of the user's is passed on."""

    def __init__(
        self,
        listener: Listener,
        follower: Follower,
        installation: Installation,
        database_name: str,
        *,
        needs_journal: bool,
    ) -> None:
        self._listener = listener
        self._follower = follower
        self._installation = installation
        self._database_name = database_name
        self._needs_journal = needs_journal

    @property
    def trouble(self) -> str | None:
        """Why a commit now would not reach the clients; None if it would."""
        if not self._listener.is_ready:
            return f"the server receives no notifications from PostgreSQL: {self._listener.not_ready_reason}"
        return self._trouble_of_journal

    def database_state(self, *, is_full: bool = True) -> dict[str, object]:
        """The database's state as the dashboard's socket sends it.

        Unless `is_full`, without the database's name and its error messages.
        """
        state, reason = self._listener.state, self._listener.reason
        if state is ListenerState.LISTENING and (trouble := self._trouble_of_journal):
            state, reason = ListenerState.LOST, trouble  # connected, but nothing is delivered
        return {
            "state": state.value,
            "name": self._database_name if is_full else "PostgreSQL",
            "since": iso(self._listener.since),
            "reason": reason if is_full else "",
        }

    @property
    def _trouble_of_journal(self) -> str | None:
        if self._follower.trouble is not None:
            return self._follower.trouble
        if self._installation.is_removed:
            return (
                "the schema changefeed was removed: nothing is recorded until you run psql -f sql/install.sql and "
                "watch tables again; restart the server to go on with NOTIFY triggers alone"
            )
        if self._needs_journal and self._follower.cache is None:
            return (
                "the schema changefeed is not installed, and the server passes on no NOTIFY: start with --watch "
                "schema.table, or run psql -f sql/install.sql"
            )
        return None
