"""The page cache gives what the journal itself would: checked against a history of transactions that commit out of order."""

import random
import tracemalloc
from dataclasses import replace
from functools import partial
from itertools import pairwise
from unittest import mock

import pytest

from changefeed.change.change import Change
from changefeed.journal import page_cache
from changefeed.journal.cursor import Place, Snapshot, encode_batch
from changefeed.journal.page_cache import Page, PageCache, with_cursor

EPOCH = b"abcdef"
ENCODE_BATCH = partial(encode_batch, EPOCH)


class History:
    """A database in small: transactions draw ids while they run and commit in any order; snapshots are taken between."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.rows: list[tuple[int, int]] = []  # xid, id
        self._running: set[int] = set()
        self._next_xid = 100

    def go_on(self) -> Snapshot:
        for _ in range(self.dice.randrange(3)):
            self._running.add(self._next_xid)
            self._next_xid += 1
        for xid in sorted(self._running):
            for _ in range(self.dice.randrange(3)):
                self.rows.append((xid, len(self.rows) + 1))
        for xid in self.dice.sample(sorted(self._running), self.dice.randrange(len(self._running) + 1)):
            self._running.discard(xid)
        return Snapshot(min(self._running, default=self._next_xid), self._next_xid, frozenset(self._running))

    def pages(self, previous: Snapshot, batch: Snapshot, size: int) -> list[Page]:
        """The batch between two snapshots, as changefeed.read() would give it."""
        suffix = encode_batch(EPOCH, previous, batch)
        found = [
            Change(f'{{"n": {change_id}, "cursor": "{change_id:x}.{suffix}"}}', "t", "INSERT", xid, change_id)
            for xid, change_id in self.rows
            if batch.sees(xid) and not previous.sees(xid)
        ]
        pages, start = [], Place.after(previous)
        for begin in range(0, len(found), size):
            part = found[begin : begin + size]
            is_last = begin + size >= len(found)
            end = Place.after(batch) if is_last else Place(previous, batch, part[-1].id)
            pages.append(Page(start, end, part, previous, batch))
            start = end
        return pages or [Page(start, Place.after(batch), [], previous, batch)]


def fill(history: History, steps: int = 30, size: int = 3) -> tuple[PageCache, list[Snapshot]]:
    snapshots = [history.go_on()]
    cache = PageCache(ENCODE_BATCH, Place.after(snapshots[0]))
    for _ in range(steps):
        snapshots.append(history.go_on())
        for page in history.pages(snapshots[-2], snapshots[-1], size):
            cache.append(page)
    return cache, snapshots


@pytest.mark.parametrize("seed", range(5))
def test_a_split_page_is_remembered_as_one(seed: int):
    history = History(seed)
    snapshots = [history.go_on()]
    whole, split = (PageCache(ENCODE_BATCH, Place.after(snapshots[0])) for _ in range(2))
    for _ in range(30):
        snapshots.append(history.go_on())
        for page in history.pages(snapshots[-2], snapshots[-1], 5):
            rest: Page | None = replace(page, changes=[*page.changes])
            while rest:
                part, rest = rest.split(2)
                split.append(part)
            whole.append(page)
    places = [page.place_after(change) for page in whole._pages for change in page.changes]
    assert split.edge == whole.edge
    assert split.ends() == whole.ends()
    for place in [*places, *map(Place.after, snapshots)]:
        assert read_all(split, place) == read_all(whole, place)


def read_all(cache: PageCache, place: Place) -> list[int]:
    ids: list[int] = []
    while place != cache.edge:
        page = cache.page_after(place)
        assert page is not None
        assert page.start == place or not page.start.has_passed(10**9, 0)
        ids += [change.id for change in page.changes]
        place = page.end
    return ids


def unseen(history: History, cache: PageCache, place: Place) -> set[int]:
    seen_at_the_end = cache.edge.batch
    return {i for xid, i in history.rows if seen_at_the_end.sees(xid) and not place.has_passed(xid, i)}


@pytest.mark.parametrize("seed", range(30))
def test_any_place_gives_each_unseen_change_once(seed: int):
    history = History(seed)
    cache, snapshots = fill(history)
    places = [Place.after(snapshot) for snapshot in snapshots]
    for previous, batch in pairwise(snapshots):
        places += [
            Place(previous, batch, change.id) for page in history.pages(previous, batch, 100) for change in page.changes
        ]
    for place in places:
        ids = read_all(cache, place)
        assert len(ids) == len(set(ids))
        assert set(ids) == unseen(history, cache, place)


@pytest.mark.parametrize("seed", range(30))
def test_another_servers_place_is_continued(seed: int):
    history = History(seed)
    cache, snapshots = fill(history)
    dice = random.Random(seed)
    for _ in range(40):
        # Another server read the same history in other batches.
        first, second = sorted(dice.sample(range(len(snapshots)), 2))
        batch = history.pages(snapshots[first], snapshots[second], 1000)[0]
        if not batch.changes:
            continue
        place = Place(snapshots[first], snapshots[second], dice.choice(batch.changes).id)
        got: list[int] = []
        expected = unseen(history, cache, place)
        while place != cache.edge:
            page = cache.page_after(place)
            assert page is not None
            if page.changes and dice.random() < 0.3:
                # The client goes away in the middle of a page and comes back with the cursor of its last change.
                kept = page.changes[: dice.randrange(1, len(page.changes) + 1)]
                got += [change.id for change in kept]
                place = Place(page.previous, page.batch, kept[-1].id)
                assert kept[-1].cursor == f"{kept[-1].id:x}.{encode_batch(EPOCH, page.previous, page.batch)}"
            else:
                got += [change.id for change in page.changes]
                place = page.end
        assert len(got) == len(set(got))
        assert set(got) == expected


def test_it_does_not_answer_beyond_its_oldest_page():
    history = History(1)
    cache, snapshots = fill(history)
    small = PageCache(ENCODE_BATCH, Place.after(snapshots[0]), limit_bytes=200)
    for previous, batch in pairwise(snapshots):
        for page in history.pages(previous, batch, 3):
            small.append(page)
    assert small.page_after(Place.after(snapshots[0])) is None
    assert cache.page_after(Place.after(snapshots[0])) is not None
    assert small.page_after(small.edge) is not None


def test_a_place_beyond_the_edge_waits():
    history = History(2)
    cache, _ = fill(history)
    later = history.go_on()
    while later == cache.edge.batch:
        later = history.go_on()
    beyond = Place.after(later)
    assert cache.page_after(beyond) is None
    assert cache.is_beyond_edge(beyond)


def test_newest_are_the_last_ones_in_their_order():
    history = History(3)
    cache, _ = fill(history)
    everything = [change.id for page in cache._pages for change in page.changes]
    assert [change.id for change in cache.newest(7)] == everything[-7:]
    assert [change.id for change in cache.newest(10**6)] == everything


def test_another_cursor_changes_nothing_else_of_the_text():
    change = Change('{"data": {"a": "x.y"}, "cursor": "1f.abc"}', "t", "INSERT", 1, 31)
    assert with_cursor(change, "def").text == '{"data": {"a": "x.y"}, "cursor": "1f.def"}'


def test_memory_of_a_part_of_a_batch_knows_nothing_of_the_rest():
    before, after = Snapshot(10, 10), Snapshot(12, 12)
    history = History(0)
    history.rows = [(11, change_id) for change_id in range(1, 10)]
    first, second, third = history.pages(before, after, 3)
    cache = PageCache(ENCODE_BATCH, Place.after(before))
    cache.append(first)

    assert cache.page_after(second.end) is None
    assert cache.is_beyond_edge(second.end)

    cache.append(second)
    cache.append(third)
    assert read_all(cache, second.end) == [7, 8, 9]


def test_a_client_far_behind_gets_its_page_without_a_search_of_all():
    """Of many pages each costs the same; else a client that comes back takes the time of the square of what it missed."""
    history = History(1)
    cache, snapshots = fill(history, steps=2000)
    with mock.patch.object(Place, "is_within", autospec=True, side_effect=Place.is_within) as compared:
        assert read_all(cache, Place.after(snapshots[1]))
    assert compared.call_count < 5 * len(cache._pages)


@pytest.mark.parametrize(("changes", "running"), [(1, 0), (1, 400), (100, 1)])
def test_what_it_takes_is_what_it_counts(changes: int, running: int):
    """Not the texts alone: in a gentle feed those are the least of it."""
    tracemalloc.start()
    try:
        cache, place = PageCache(ENCODE_BATCH, Place.after(Snapshot(1, 1))), Snapshot(1, 1)
        for number in range(2000 // changes):
            batch = Snapshot(
                10**6 * number, 10**6 * number + 500, frozenset(range(10**6 * number, 10**6 * number + running))
            )
            ids = range(number * changes + 1, (number + 1) * changes + 1)
            page = [
                Change(f'{{"n": {i}, "x": "{"x" * 200}", "cursor": "{i:x}.x"}}', f"public.{i}", "INSERT", 7, i)
                for i in ids
            ]
            cache.append(Page(Place.after(place), Place.after(batch), page, place, batch))
            place = batch
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.6 < cache._bytes / taken < 1.6


def test_made_up_cursors_take_at_most_one_pages_memory():
    """Clients can make up any number of snapshots within what is remembered."""
    mine = [Change(f'{{"x": "{"x" * 100_000}", "cursor": "{i:x}.x"}}', "t", "INSERT", 500, i) for i in range(1, 201)]
    cache = PageCache(ENCODE_BATCH, Place.after(Snapshot(400, 400)))
    cache.append(Page(cache.edge, Place.after(Snapshot(600, 600)), mine, Snapshot(400, 400), Snapshot(600, 600)))
    tracemalloc.start()
    try:
        for number in range(401, 500):
            place = Place.after(Snapshot(number, 501, frozenset({number, 500})))
            read = []
            while page := cache.page_after(place):
                if not page.changes:
                    break
                read += [change.id for change in page.changes]
                place = page.end
            assert read == list(range(1, 201))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < page_cache.ACROSS_KEPT_BYTES + 2 * page_cache.ACROSS_LIMIT_BYTES


def test_another_servers_cursor_reads_a_batch_in_pages():
    changes = [Change(f'{{"cursor": "{i:x}.x"}}', "t", "INSERT", 500, i) for i in range(1, 5_001)]
    cache = PageCache(ENCODE_BATCH, Place.after(Snapshot(400, 400)))
    cache.append(Page(cache.edge, Place.after(Snapshot(600, 600)), changes, Snapshot(400, 400), Snapshot(600, 600)))
    place, sizes, read = Place.after(Snapshot(450, 450)), [], []
    while (page := cache.page_after(place)) and page.changes:
        assert page.start == place
        sizes.append(len(page.changes))
        read += page.changes
        place = page.end
    assert [change.id for change in read] == list(range(1, 5_001))
    assert sizes == [2_000, 2_000, 1_000]
    assert place == cache.edge
