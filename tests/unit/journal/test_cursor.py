"""Cursors: packed and unpacked again, refused when cut or mangled, and ordered as the snapshots in them are."""

import base64
import random
import re
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed.journal import cursor
from changefeed.journal.cursor import NotACursor, Place, Snapshot, decode, encode

EPOCH = b"\x01\x02\x03\x04\x05\xff"


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    xmin = draw(st.integers(1, 2**63))
    running = draw(st.frozensets(st.integers(xmin, xmin + 10_000), max_size=20))
    xmin = min(running, default=xmin)
    return Snapshot(xmin, draw(st.integers(max(running, default=xmin) + 1, xmin + 20_000)), running)


places = st.builds(Place, snapshots(), snapshots(), st.integers(0, 2**62))


@given(places)
def test_a_place_survives_its_text(place: Place):
    assert decode(encode(EPOCH, place)) == (EPOCH, place)


@given(places, st.integers(1, 2**63 - 1))
def test_losses_survive_and_are_not_part_of_the_place(place: Place, losses: int):
    informed = replace(place, losses=losses)
    assert informed == place
    assert decode(encode(EPOCH, informed))[1].losses == losses
    assert decode(encode(EPOCH, place))[1].losses == 0


@given(places, st.integers(1, 2**28 - 1), st.integers(1, 2**28 - 1))
def test_so_does_what_proves_it(place: Place, witness: int, digest: int):
    proven = replace(place, batch=replace(place.batch, witness=witness), digest=digest)
    [_, read] = decode(encode(EPOCH, proven))
    assert (read, read.batch.witness, read.digest) == (place, witness, digest)
    [_, read] = decode(encode(EPOCH, replace(proven, digest=0)))  # of the version before
    assert (read, read.batch.witness, read.digest) == (place, witness, 0)


@given(places)
def test_the_text_is_safe_in_a_url_as_it_is(place: Place):
    assert re.fullmatch(r"[A-Za-z0-9._~-]+", encode(EPOCH, place))


def test_a_usual_cursor_is_short():
    snapshot = Snapshot(123_456_789, 123_456_801, frozenset({123_456_789, 123_456_795}))
    assert len(encode(EPOCH, Place(snapshot, Snapshot(123_456_805, 123_456_805), 987_654_321))) <= 48


@given(places, st.data())
def test_a_cut_or_changed_text_is_refused(place: Place, data: st.DataObject):
    text = encode(EPOCH, place)
    rest_begins = text.index(".") + 1
    cut = data.draw(st.integers(1, len(text) - rest_begins))
    with pytest.raises(NotACursor):
        decode(text[:-cut])
    at = data.draw(st.integers(rest_begins, len(text) - 2))
    changed = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
    with pytest.raises(NotACursor):
        decode(changed)


@pytest.mark.parametrize(
    "text", ["", "x", "1", "1.", "1.AAAA", "-1.AAAAAAAAAAAA", "1.AAAA AAAAAAAA", "é.AAAAAAAAAAAA", "1." + "A" * 100]
)
def test_what_is_no_cursor_is_refused_with_advice(text: str):
    with pytest.raises(NotACursor, match="cursor"):
        decode(text)


@given(snapshots())
def test_a_snapshot_survives_postgresqls_text(snapshot: Snapshot):
    assert Snapshot.parse(str(snapshot)) == snapshot


def history(seed: int) -> list[Snapshot]:
    """Snapshots of one database in the order of time: transactions begin, and end in any order."""
    dice = random.Random(seed)
    running: set[int] = set()
    taken, next_xid = [], 100
    for _ in range(60):
        for _ in range(dice.randrange(4)):
            running.add(next_xid)
            next_xid += 1
        for xid in dice.sample(sorted(running), dice.randrange(len(running) + 1)):
            running.discard(xid)
        taken.append(Snapshot(min(running, default=next_xid), next_xid, frozenset(running)))
    return taken


@pytest.mark.parametrize("seed", range(20))
def test_snapshots_of_one_database_are_within_the_later_ones(seed: int):
    taken = history(seed)
    for earlier, later in pairwise(taken):
        assert earlier.is_within(later)
        visible = {xid for xid in range(100, later.xmax) if earlier.sees(xid)}
        assert all(later.sees(xid) for xid in visible)
        if not later.is_within(earlier):
            continue
        assert visible == {xid for xid in range(100, later.xmax) if later.sees(xid)}


@pytest.mark.parametrize("seed", range(20))
def test_is_within_compares_all_that_was_passed(seed: int):
    taken = history(seed)
    dice = random.Random(seed)
    found = []
    for _ in range(40):
        first, second = sorted(dice.sample(range(len(taken)), 2))
        found.append(Place(taken[first], taken[second], dice.choice((0, 5, 9))))
    changes = [(xid, change_id) for xid in range(100, taken[-1].xmax) for change_id in (1, 5, 7, 9, 12)]
    for one in found:
        for other in found:
            if one.is_within(other):
                assert all(other.has_passed(*change) for change in changes if one.has_passed(*change))


# -- forged ones: anybody can compute the checksum


def forged(*numbers: int, change_id: str = "1") -> str:
    """A text with a right checksum and these numbers in it, as they would stand for two snapshots."""
    packed = bytearray((1,)) + EPOCH
    cursor._pack(packed, *numbers)
    return f"{change_id}.{base64.urlsafe_b64encode(packed + cursor._checksum(packed)).rstrip(b'=').decode()}"


def test_what_postgresql_would_not_take_as_a_snapshot_is_no_cursor():
    assert decode(forged(5, 1, 1, 0, 6, 0, 0))
    for numbers in (
        (0, 1, 0, 6, 0, 0),  # no transaction has the id 0
        (5, 1, 1, 1, 6, 0, 0),  # one that runs beyond the end
        (5, 2**64, 0, 6, 0, 0),
        (2**64 - 1, 1, 0, 6, 0, 0),
        (2**70_000, 0, 0, 6, 0, 0),
    ):
        with pytest.raises(NotACursor):
            decode(forged(*numbers))
    with pytest.raises(NotACursor):
        decode(forged(5, 1, 0, 6, 0, 0, change_id="f" * 16))  # beyond bigint


def test_long_ones_are_not_kept():
    decode(forged(5, 1, 0, 6, 0, 0))
    kept = cursor._decode_short.cache_info().currsize
    assert kept
    for number in range(5, 15):
        decode(forged(number, 10_000, 1_000, *[1] * 1_000, 20_000, 0, 0))
    assert cursor._decode_short.cache_info().currsize == kept
