"""What a process publishes of others' pages is what it would have read: whatever is lost, late, or of another past."""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest

from changefeed.change.change import Change
from changefeed.journal.cursor import Place, Snapshot
from changefeed.journal.exchange import (
    BUSY_PAUSE_SECONDS,
    BUSY_SECONDS,
    SIBLING_PATIENCE_SECONDS,
    HandedPage,
    PageExchange,
    PageKind,
)
from changefeed.journal.horizon import Deleted, Horizon
from changefeed.journal.page_cache import Page
from tests.unit.journal.test_page_cache import History

KIND: PageKind = ("version", "journal")


class Line:
    """From one process to another; `takes` says whether a message arrives."""

    def __init__(self, sender: int = 1, takes: Callable[[bytes], bool] = lambda message: True) -> None:
        self.now = 0.0
        self.leads = True
        self.limit_bytes = 1 << 20
        self.takes = takes
        self.sent: list[bytes] = []
        self.sender = PageExchange(sender, self._send, lambda: self.leads, clock=lambda: self.now)
        self.receiver = PageExchange(sender + 1, clock=lambda: self.now)
        self._number = sender
        for exchange in (self.sender, self.receiver):
            exchange.prove(KIND, 0.0)

    def _send(self, message: bytes) -> bool:
        if len(message) > self.limit_bytes:
            return False
        self.sent.append(message)
        if self.takes(message):
            self.receiver.receive(self._number, message)
        return True

    def hand_on(self, *pages: Page) -> None:
        for page in pages:
            self.sender.hand_on(page, Horizon(), None, self.now)


def snapshot(xmax: int, witness: int | None = None) -> Snapshot:
    return Snapshot(xmax, xmax, witness=xmax if witness is None else witness)


def page(begin: Snapshot, end: Snapshot, *changes: Change) -> Page:
    return Page(Place.after(begin), Place.after(end), list(changes), begin, end)


def change(change_id: int) -> Change:
    return Change(f'{{"cursor": "{change_id:x}.x"}}', "public.orders", "INSERT", 1, change_id, 1.5)


def test_a_page_arrives_as_it_was_read():
    line = Line()
    begin, end = snapshot(10), Snapshot(10, 20, frozenset({12, 15}), witness=7)
    read = replace(page(begin, end, change(1), change(2)), digest=5)
    horizon = Horizon(3, 4, 5, 6, Snapshot(1, 30), Deleted(8, Snapshot(1, 9), {3: 4}))
    line.sender.hand_on(read, horizon, 250, began_at=12.5)
    handed = line.receiver.next_for(Place.after(begin))
    assert handed is not None
    assert handed.fits(Place.after(begin))
    assert (handed.page, handed.lease_ms, handed.began_at) == (read, 250, 12.5)
    assert handed.page.batch.witness == 7
    assert handed.horizon == replace(horizon, deleted=Deleted(8))
    assert line.receiver.next_for(Place.after(begin)) is None


@pytest.mark.parametrize("seed", range(40))
def test_lost_messages_cost_no_change(seed: int):
    dice, history = random.Random(seed), History(seed)
    line = Line(takes=lambda message: dice.random() < 0.6)
    present = proven(history.go_on())
    sender_at = receiver_at = Place.after(present)
    published: list[tuple[int, int]] = []
    before = {row for row in history.rows if present.sees(row[0])}
    taken_over = 0

    def take(part: Page) -> Place:
        published.extend((each.xid, each.id) for each in part.changes)
        return part.end

    def read(upto: Snapshot) -> Place:
        edge = receiver_at
        for part in history.pages(edge.batch, upto, 3):
            edge = take(part)
        return edge

    for _ in range(200):
        present = proven(history.go_on())
        if dice.random() < 0.8:
            for part in history.pages(sender_at.batch, present, 3):
                line.hand_on(part)
                sender_at = part.end
        if dice.random() < 0.1 and receiver_at.is_batch_end:
            receiver_at = read(present)
        while handed := line.receiver.next_for(receiver_at):
            if handed.fits(receiver_at):
                taken_over += 1
                receiver_at = take(handed.page)
            elif receiver_at.is_batch_end:
                receiver_at = read(handed.page.batch)
            else:  # the rest of its batch comes first
                for part in history.pages(receiver_at.previous, receiver_at.batch, 3):
                    if part.start.id >= receiver_at.id:
                        receiver_at = take(part)
    if not receiver_at.is_batch_end:
        for part in history.pages(receiver_at.previous, receiver_at.batch, 3):
            if part.start.id >= receiver_at.id:
                receiver_at = take(part)
    receiver_at = read(present)
    assert sorted(published) == sorted(row for row in history.rows if present.sees(row[0]) and row not in before)
    assert taken_over > 20


def proven(taken: Snapshot) -> Snapshot:
    return replace(taken, witness=taken.xmax)


def test_a_page_that_starts_elsewhere_leads_to_its_batchs_end():
    line = Line()
    a, b, c = snapshot(10), snapshot(20), snapshot(30)
    line.hand_on(page(b, c, change(1)))
    handed = line.receiver.next_for(Place.after(a))
    assert handed is not None
    assert not handed.fits(Place.after(a))
    assert handed.batch_end == Place.after(c)


def test_a_page_from_before_the_edge_is_left_out():
    line = Line()
    a, b, c = snapshot(10), snapshot(20), snapshot(30)
    line.hand_on(page(a, b, change(1)), page(b, c, change(2)))
    assert line.receiver.next_for(Place.after(c)) is None


def test_a_page_of_another_past_does_not_fit():
    line = Line()
    line.hand_on(page(snapshot(10, witness=1), snapshot(20), change(1)))
    handed = line.receiver.next_for(Place.after(snapshot(10, witness=2)))
    assert handed is not None
    assert not handed.fits(Place.after(snapshot(10, witness=2)))


def test_a_batch_without_proof_leads_nowhere():
    line = Line()
    line.hand_on(page(snapshot(20), snapshot(30, witness=0), change(1)))
    assert line.receiver.next_for(Place.after(snapshot(10))) is None


@pytest.mark.parametrize("kind", [("other version", "journal"), ("version", "other journal"), None])
def test_pages_of_another_journal_or_version_are_not_taken(kind: PageKind | None):
    line = Line()
    line.receiver.prove(kind, 0.0)
    line.hand_on(page(snapshot(10), snapshot(20)))
    assert line.receiver.next_for(Place.after(snapshot(10))) is None
    assert line.receiver.patience_seconds == 0


@pytest.mark.parametrize("message", [b"\xc1", b"\x90", msgspec.msgpack.encode([KIND, "no time"])])
def test_an_invalid_message_is_ignored(message: bytes):
    line = Line()
    line.receiver.receive(1, message)
    assert line.receiver.patience_seconds == 0


def test_it_waits_for_pages_only_if_it_follows_a_process():
    line = Line()
    told: list[str] = []
    line.receiver.on_left = lambda: told.append("left")
    assert line.receiver.patience_seconds == 0
    line.hand_on(page(snapshot(10), snapshot(20)))
    assert line.receiver.patience_seconds == SIBLING_PATIENCE_SECONDS
    line.receiver.receive(1, b"")
    assert (line.receiver.patience_seconds, told) == (0, ["left"])
    assert line.receiver.next_for(Place.after(snapshot(10))) is None


def test_it_follows_the_lowest_number_below_its_own():
    third = PageExchange(3)
    third.prove(KIND, 0.0)
    a, b = snapshot(10), snapshot(20)

    def message(witness: int) -> bytes:
        return msgspec.msgpack.encode(
            HandedPage(KIND, -1.0, 0.0, page(a, b, change(witness)), Horizon(lost_statements=witness), None)
        )

    def followed() -> int:
        handed = third.next_for(Place.after(a))
        return handed.horizon.lost_statements if handed else 0

    third.receive(4, message(4))
    assert followed() == 0
    third.receive(2, message(2))
    assert followed() == 2
    third.receive(1, message(1))
    third.receive(2, message(2))
    assert [followed(), followed()] == [1, 0]
    third.receive(2, b"")  # it does not follow that one
    assert third.patience_seconds
    third.leave()
    third.receive(2, message(2))
    assert followed() == 2


def test_it_proves_the_past_after_the_process_it_follows():
    line = Line()
    a, b = snapshot(10), snapshot(20)
    line.hand_on(page(a, b))
    line.now = 5.0
    line.sender.prove(KIND, began_at=4.0)
    assert not line.receiver.must_prove
    line.hand_on(page(b, snapshot(30)))
    assert line.receiver.must_prove
    line.receiver.prove(KIND, began_at=6.0)
    assert not line.receiver.must_prove
    assert line.receiver.next_for(Place.after(a)) is None  # what it had received may be of the past that was lost


def test_a_page_too_large_to_send_still_gives_its_batchs_end():
    line = Line()
    line.limit_bytes = 1000
    a, b = snapshot(10), snapshot(20)
    line.hand_on(page(a, b, *map(change, range(100))))
    handed = line.receiver.next_for(Place.after(a))
    assert handed is not None
    assert not handed.fits(Place.after(a))
    assert handed.batch_end == Place.after(b)


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch):
    line = Line()
    ends = [snapshot(number) for number in range(10, 30)]
    pages = [page(begin, end, change(1)) for begin, end in pairwise(ends)]
    line.hand_on(pages[0])
    monkeypatch.setattr("changefeed.journal.exchange.WAITING_LIMIT_BYTES", 3 * len(line.sent[0]))
    line.hand_on(*pages[1:])
    handed = line.receiver.next_for(Place.after(ends[0]))
    assert handed is not None
    assert not handed.fits(Place.after(ends[0]))
    assert line.receiver._waiting_bytes <= 3 * len(line.sent[0])


def test_a_slow_or_disconnected_process_hands_on_nothing():
    line = Line()
    a, b = snapshot(10), snapshot(20)
    line.hand_on(page(a, b))
    line.sender.note_publishing(2 * BUSY_SECONDS)
    line.hand_on(page(a, b))
    assert line.receiver.patience_seconds == 0
    line.hand_on(page(a, b))
    assert line.sent[1:] == [b""]
    line.now += BUSY_PAUSE_SECONDS
    line.hand_on(page(a, b))
    assert line.receiver.patience_seconds
    line.leads = False
    line.hand_on(page(a, b))
    assert line.receiver.patience_seconds == 0


def test_a_server_of_one_process_hands_on_nothing():
    alone = PageExchange()
    alone.prove(KIND, 0.0)
    alone.hand_on(page(snapshot(10), snapshot(20)), Horizon(), None, 0.0)
    assert alone.patience_seconds == alone.lateness_seconds == 0
