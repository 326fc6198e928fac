"""The changes of a feed, each once, and a gap where some may be missing."""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime

from psqlisten2websocket_client.changes import Change, Gap
from psqlisten2websocket_client.connection import Connection, Request, Token, logger


class ChangesMissing(Exception):
    """Changes may be missing, and follow() was given no `on_gap`. Read the tables again, then iterate again."""

    def __init__(self, gap: Gap) -> None:
        super().__init__(f"{gap.why}; {gap.what_to_do}")
        self.gap = gap


def follow(
    url: str,
    *,
    table: str | Sequence[str] = (),
    action: str | Sequence[str] = (),
    filter: str | Sequence[str] = (),
    columns: str | Sequence[str] = (),
    since: str | None = None,
    token: Token | None = None,
    on_gap: Callable[[Gap], None] | None = None,
) -> "Feed":
    """Follows the feed at `url`, such as http://localhost:8080, until the iteration over it ends.

    Each change comes once and in order. A lost connection is made again, for ever, and continues after the last change
    that was processed. `since` is a cursor to continue after; without it the feed begins now.

    Where changes may be missing, `on_gap` is called before the changes that follow; without it ChangesMissing is
    raised. What can never work raises Refused: an unknown table, a wrong filter, a refused token.
    """
    fields = {"table": table, "action": action, "filter": filter, "columns": columns}
    return Feed(Request(url, fields, token), since, on_gap)


class Feed:
    """An asynchronous iterable of changes. A new iteration continues where the last one ended.

    `cursor`: everything up to here was processed; None before the first message, and without a journal.
    """

    def __init__(self, request: Request, since: str | None, on_gap: Callable[[Gap], None] | None) -> None:
        self.cursor = since
        self._request = request
        self._on_gap = on_gap

    async def __aiter__(self) -> AsyncIterator[Change]:
        # Where the server continues. Right after hello that may be elsewhere than it was asked to; then a gap follows.
        # Until that is delivered the old cursor stays, so that a connection lost in between does not lose the gap.
        begin: str | None = None
        heard_at: str | None = None
        has_unrecorded = False  # some changes are in no journal, so those of a time without a connection are lost
        connection = Connection(self._request)
        try:
            while True:
                message = await connection.receive({"since": self.cursor} if self.cursor else {})
                match message["type"]:
                    case "hello":
                        if heard_at and (self.cursor is None or has_unrecorded):
                            why = "the connection was lost, and what is not recorded is not sent later"
                            self._tell(Gap(why, since=heard_at, until=_now()))
                        begin = message["cursor"]
                        self.cursor = self.cursor or begin
                    case "changes":
                        for value in message["changes"]:
                            change = Change.of(value)
                            yield change
                            self.cursor = change.cursor or self.cursor
                        self.cursor = begin = message["cursor"] or self.cursor
                        has_unrecorded = has_unrecorded or message["cursor"] is None
                    case "gap":
                        self.cursor = begin
                        self._tell(Gap.of(message))
                    case "unreadable":
                        self.cursor = begin = message["cursor"] or begin
                        self._tell(Gap(message["why"]))
                    case "error":
                        logger.warning("%s: %s", message["code"], message["message"])
                    # Other types are of later versions, for clients that ask for them.
                heard_at = _now()
        finally:
            await connection.close()

    def _tell(self, gap: Gap) -> None:
        if self._on_gap is None:
            raise ChangesMissing(gap)
        self._on_gap(gap)


def _now() -> str:
    return datetime.now(UTC).isoformat()
