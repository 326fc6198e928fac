"""Keeps the newest pages of the journal, so that a reconnecting crowd costs the database nothing.

Its total size in bytes is bounded; the oldest pages go first. Knows no database and no client.
"""

from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain, islice
from sys import getsizeof

import msgspec

from changefeed.change.change import Change
from changefeed.journal.cursor import Place, Snapshot

MEMORY_LIMIT_BYTES = 64 << 20
# Memory that Python needs besides the texts, measured. In a slow feed each page has one change, so most is overhead.
PAGE_OVERHEAD_BYTES = 1_000
CHANGE_OVERHEAD_BYTES = 200
RUNNING_OVERHEAD_BYTES = 120  # per transaction that is running when a page is read
# Bounds for pages that are composed for cursors of other servers.
ACROSS_LIMIT_CHANGES = 2_000
ACROSS_LIMIT_BYTES = 4 << 20
ACROSS_KEPT = 64  # even if they have no changes
ACROSS_KEPT_BYTES = 16 << 20
DIFFERENCES_LIMIT = 100_000  # changes


@dataclass(slots=True)
class Page:
    """Consecutive changes of one batch. A client at `start` that gets them is then at `end`."""

    start: Place
    end: Place
    changes: list[Change]
    previous: Snapshot
    batch: Snapshot
    digest: int = 0  # of the batch; see Place

    def place_after(self, change: Change) -> Place:
        """The place of a client that got the page up to this change."""
        return Place(self.previous, self.batch, change.id, digest=self.digest)

    def split(self, count: int) -> "tuple[Page, Page | None]":
        """Splits the page after `count` changes; the second page is None if nothing is left."""
        if count >= len(self.changes):
            return self, None
        middle = self.place_after(self.changes[count - 1])
        return (
            replace(self, end=middle, changes=self.changes[:count]),
            replace(self, start=middle, changes=self.changes[count:]),
        )


class PageCache:
    """The newest pages; each begins where the one before it ended. `edge` is where the last one ends.

    encode_batch(previous, batch) makes the part after the point in the cursors of a batch that was composed here.
    """

    def __init__(
        self, encode_batch: Callable[[Snapshot, Snapshot], str], edge: Place, limit_bytes: int = MEMORY_LIMIT_BYTES
    ) -> None:
        self.edge = edge
        self._encode_batch = encode_batch
        self._limit_bytes = limit_bytes
        self._oldest = edge  # the pages hold everything since
        self._pages: deque[Page] = deque()
        self._sizes: deque[int] = deque()  # of the pages, in bytes
        self._starting: dict[Place, Page] = {}  # the pages by their start
        self._batches: dict[tuple[Snapshot, Snapshot], list[Page]] = {}
        self._bytes = 0
        self._witnesses = {edge.batch.xmax: edge.batch.witness}
        self._differences: OrderedDict[tuple[Snapshot, Snapshot], list[Change]] = OrderedDict()
        self._across: OrderedDict[tuple[Snapshot, Snapshot, int], Page] = OrderedDict()
        self._across_bytes = 0

    def append(self, page: Page) -> None:
        """Adds the page that begins at the edge."""
        self.edge = page.end
        self._witnesses[page.batch.xmax] = page.batch.witness
        if not page.changes:
            # Nothing changed, but time went on: moves the last page's end.
            if self._pages:
                self._pages[-1].end = page.end
            return
        self._pages.append(page)
        self._starting[page.start] = page
        self._batches.setdefault((page.previous, page.batch), []).append(page)
        self._sizes.append(_size(page))
        self._bytes += self._sizes[-1]
        while self._bytes > self._limit_bytes and len(self._pages) > 1:
            self._forget_oldest()

    @property
    def edge_proven(self) -> Place:
        """The edge as the place that proves most: after the last change. What was read since had no change in it."""
        last = self._pages[-1] if self._pages else None
        return last.place_after(last.changes[-1]) if last and last.digest else self.edge

    def page_after(self, place: Place) -> Page | None:
        """The page after `place`, which is empty at the edge; None if the cache does not know.

        It does not know if it does not reach back to `place`, or if `place` is beyond the edge: then the cursor is of
        another server of the same database, which was ahead for a moment.
        """
        if place == self.edge:
            return Page(place, place, [], place.previous, place.batch)
        if pages := self._batches.get((place.previous, place.batch)):
            return self._page_within(pages, place)
        if page := self._starting.get(place):
            return page
        if not self._oldest.is_within(place) or not place.is_within(self.edge):
            return None
        return self._page_across(place)

    def proves(self, place: Place) -> bool:
        """Whether the remembered pages prove the place. If not, the journal may."""
        if place == self.edge:
            return place.batch.witness in (0, self.edge.batch.witness)
        if not place.id:
            return not place.batch.witness or self._witnesses.get(place.batch.xmax) == place.batch.witness
        pages = self._batches.get((place.previous, place.batch), ())
        return any(page.batch.witness == place.batch.witness and place.digest in (0, page.digest) for page in pages)

    def ends(self) -> list[Snapshot]:
        """The snapshots at the ends of remembered batches, newest first."""
        ends = [page.batch for page in reversed(self._pages) if page.end.is_batch_end]
        return list(dict.fromkeys(ends))

    def up_to(self, snapshot: Snapshot) -> "tuple[PageCache, list[Change]]":
        """The cache as of the end of this batch, one of ends(), and the changes that came since."""
        kept = PageCache(self._encode_batch, self._pages[0].start, self._limit_bytes)
        dropped: list[Change] = []
        is_beyond = False
        for page in self._pages:
            if is_beyond:
                dropped += page.changes
            else:
                kept.append(replace(page))
                is_beyond = page.batch == snapshot and page.end.is_batch_end
        return kept, dropped

    def is_beyond_edge(self, place: Place) -> bool:
        return not place.is_within(self.edge)

    def newest(self, limit: int) -> list[Change]:
        """The newest changes, oldest first, at most `limit`."""
        taken: list[Change] = []
        for page in reversed(self._pages):
            if len(taken) >= limit:
                break
            taken[:0] = page.changes[len(taken) - limit :]
        return taken

    def _page_within(self, pages: list[Page], place: Place) -> Page | None:
        """The rest of a batch that this server read."""
        if place.id < pages[0].start.id:
            return None  # the batch's first pages were forgotten
        for page in pages:
            if place == page.start:
                return page
            if place.id < page.changes[-1].id:
                return replace(page, start=place, changes=[change for change in page.changes if change.id > place.id])
        end = pages[-1].end
        if not end.is_batch_end and place.id > end.id:
            return None  # another server has read further in the same batch
        return self.page_after(end)

    def _page_across(self, place: Place) -> Page | None:
        """A page for a cursor of another server, or from before a restart, whose batches had other boundaries.

        First comes the rest of the cursor's batch, then what follows up to the next end of a batch here. The changes
        are from several pages here, so they are put in the order of id again, with new cursors.
        """
        if not place.is_batch_end:
            rest = self._part_across(place, place.previous, place.batch, place.id, Place.after(place.batch))
            if rest.changes:
                return rest
        start = Place.after(place.batch)
        # Ends are in the order of time: a later one sees everything that an earlier one sees.
        first = bisect_left(self._pages, True, key=lambda page: place.batch.is_within(page.end.batch))
        beginning = self._pages[0].start if self._pages else self.edge
        ends = chain([beginning] if first == 0 else [], (page.end for page in islice(self._pages, first, None)))
        for end in ends:
            if end.is_batch_end and place.batch.is_within(end.batch):
                return self._part_across(start, place.batch, end.batch, 0, end)
        return None

    def _part_across(self, start: Place, previous: Snapshot, batch: Snapshot, after: int, end: Place) -> Page:
        """What became visible between two snapshots and has ids above `after`, up to one page."""
        page = self._across.get((previous, batch, after))
        if page is None:
            suffix = self._encode_batch(previous, batch)
            between = self._difference(previous, batch)
            first = bisect_right(between, after, key=lambda change: change.id)
            changes: list[Change] = []
            size = 0
            for change in islice(between, first, first + ACROSS_LIMIT_CHANGES):
                changes.append(with_cursor(change, suffix))
                size += getsizeof(change.text)
                if size >= ACROSS_LIMIT_BYTES:
                    break
            has_more = first + len(changes) < len(between)
            page = Page(start, Place(previous, batch, changes[-1].id) if has_more else end, changes, previous, batch)
            self._across[previous, batch, after] = page
            self._across_bytes += _size(page)
            while len(self._across) > 1 and (len(self._across) > ACROSS_KEPT or self._across_bytes > ACROSS_KEPT_BYTES):
                self._across_bytes -= _size(self._across.popitem(last=False)[1])
        return page

    def _difference(self, previous: Snapshot, batch: Snapshot) -> list[Change]:
        """What became visible between two snapshots, in the order in which the journal would return it."""
        known = self._differences.get((previous, batch))
        if known is None:
            begin, end = Place.after(previous), Place.after(batch)
            first = bisect_left(self._pages, True, key=lambda page: not page.end.is_within(begin))
            behind = bisect_left(self._pages, True, lo=first, key=lambda page: end.is_within(page.start))
            known = [
                change
                for page in islice(self._pages, first, behind)
                for change in page.changes
                if batch.sees(change.xid) and not previous.sees(change.xid)
            ]
            known.sort(key=lambda change: change.id)
            self._differences[previous, batch] = known
            while len(self._differences) > 1 and (
                len(self._differences) > ACROSS_KEPT or sum(map(len, self._differences.values())) > DIFFERENCES_LIMIT
            ):
                self._differences.popitem(last=False)
        return known

    def _forget_oldest(self) -> None:
        self._differences.clear()  # else it would keep the forgotten pages
        page = self._pages.popleft()
        del self._starting[page.start]
        self._oldest = page.end
        self._bytes -= self._sizes.popleft()
        pages = self._batches[page.previous, page.batch]
        pages.remove(page)
        if not pages:
            self._witnesses.pop(page.batch.xmax, None)
            del self._batches[page.previous, page.batch]


def with_cursor(change: Change, suffix: str) -> Change:
    """The change with a cursor of another batch."""
    before, _, _ = change.text.rpartition(".")
    return msgspec.structs.replace(change, text=f'{before}.{suffix}"}}')


def _size(page: Page) -> int:
    texts = sum(map(getsizeof, [change.text for change in page.changes]))
    return (
        texts
        + CHANGE_OVERHEAD_BYTES * len(page.changes)
        + PAGE_OVERHEAD_BYTES
        + RUNNING_OVERHEAD_BYTES * len(page.batch.xip)
    )
