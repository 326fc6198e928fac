"""/api/changes?since=…&limit=…: a page of the journal over HTTP, for clients without a socket."""

import json
import time
from dataclasses import replace

from changefeed.change.change import Change, without_losses
from changefeed.change.gap import Gap
from changefeed.journal.cursor import Place
from changefeed.journal.entries import JournalReplaced
from changefeed.journal.journal import BEGINNING, LostPast
from changefeed.selection.subscription import FIELDS, Selection
from changefeed.turns import Turn
from handlers.access.authentication import Need
from handlers.access.errors import database_needed, journal_replaced, no_journal, whole_number
from handlers.delivery.dialects import gap_fields, gap_within, loss_gap
from handlers.feed.query import parse_query
from handlers.feed.start import DELETED, check_subscription, find_place, until_journal_known
from handlers.http.base import ApiHandler

DEFAULT_LIMIT = 1_000
MAX_LIMIT = 10_000
ANSWER_LIMIT_BYTES = 4 << 20
SLICE_CHANGES = 500  # examined in one turn of the loop
# How long changes are examined for one page, matching or not: a client that must not learn how many there are can see a
# time anyway.
EXAMINING_SECONDS = 2.0
EXAMINED_LIMIT = 50_000  # changes, for clients that may know it


class ChangesHandler(ApiHandler):
    """{"changes": […], "cursor": "…", "has_more": false, "gap": null}. Without `since` it starts at the oldest change.

    It takes a subscription, as /ws does. A page that has examined all that it may can be empty with `has_more`.
    """

    needs = Need.TOKEN
    query_names = (*FIELDS, "since", "limit")
    waits_its_turn = True

    async def get(self) -> None:
        limit = whole_number("limit", self.get_query_argument("limit", str(DEFAULT_LIMIT)), 1, MAX_LIMIT)
        query = parse_query(self.query_fields(), self.rights)
        await check_subscription(self.context, query.subscription)
        await until_journal_known(self.context)
        if self.context.follower.cache is None:
            raise no_journal()
        selection = self.context.select(query.subscription)
        place, gap = await self._place(query.since, selection)
        try:
            with database_needed("the journal cannot be read"):
                taken, place, has_more = await self._read(place, limit, selection, is_oldest=query.since is None)
        except (JournalReplaced, LostPast):
            raise journal_replaced() from None
        if self._was_emptied and gap is None:
            gap = gap_within(selection, Gap(DELETED, from_cursor=query.since))
        changes = without_losses(taken)
        is_restricted = selection.subscription.is_restricted
        gaps = [gap] if gap else []
        gaps += [loss_gap(loss, is_restricted=is_restricted) for loss in taken if loss.is_loss]
        gap = Gap.of_all(gaps) if gaps else None
        texts = ",".join([change.text for change in changes])
        cursor = selection.cursor(self.context.journal.encode(place))
        rest = json.dumps({"cursor": cursor, "has_more": has_more, "gap": gap_fields(gap) if gap else None})
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        await self.finish_large(f'{{"changes":[{texts}],{rest[1:]}')

    async def _place(self, since: str | None, selection: Selection) -> tuple[Place, Gap | None]:
        """The place to start at, and the gap before it."""
        if since is None:
            return self._oldest(), None
        place, gap = await find_place(self.context, since, selection.subscription)
        if place is None and gap:
            return self._oldest(), replace(gap, why=f"{gap.why}; these changes start at the oldest one kept")
        return place or self._oldest(), gap

    def _oldest(self) -> Place:
        """The place before everything in the journal. Up to the feed's edge it is one batch, read by id."""
        cache = self.context.follower.cache
        return Place(BEGINNING.previous, cache.edge.batch, 0) if cache else BEGINNING

    async def _read(
        self, place: Place, limit: int, selection: Selection, *, is_oldest: bool
    ) -> tuple[list[Change], Place, bool]:
        """The changes, the place after them, and whether there are more.

        A client that starts at the oldest change has missed nothing that retention removed before.
        """
        # An empty page, and `has_more`, must not reveal changes that the client has no right to.
        is_restricted, due = selection.subscription.is_restricted, time.monotonic() + EXAMINING_SECONDS
        taken: list[Change] = []
        size = examined = 0
        self._was_emptied = False
        begin = place
        proven = place  # the place of the last change proves most
        turn = Turn()
        while True:
            cache = self.context.follower.cache
            page = cache.page_after(place) if cache and place != BEGINNING else None
            if is_read := page is None:
                page = await self.context.journal.read_for_client(self.owner, place)
                journal = self.context.journal
                has_gap = journal.has_gap_after(place) if place is begin else journal.horizon.hides_from(place)
                self._was_emptied |= has_gap and not is_oldest
            is_oldest = False
            for change in page.changes:
                if examined >= EXAMINED_LIMIT and not is_restricted:
                    return taken, place, True
                for picked in selection.pick([change]):
                    if len(taken) >= limit or size >= ANSWER_LIMIT_BYTES:
                        return taken, place, True
                    taken.append(picked)
                    size += len(picked.text)
                examined += 1
                place = proven = page.place_after(change)
                if examined % SLICE_CHANGES == 0 or turn.is_over:
                    await turn.end()
            if not page.changes and (is_read or page.end == place):
                return taken, proven if proven.digest else page.end, False
            self.hold(size)
            place = page.end
            if time.monotonic() >= due:
                return taken, place, True
            await turn.end()
