"""A sealed cursor opens unchanged with the key, and reveals nothing without it."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed.journal.cursor import NotACursor
from changefeed.journal.sealed_cursor import NO_HOLDER, Seal

SEAL = Seal(bytes(32))
MINE = b"mine"
cursors = st.text("0123456789abcdef.AZaz_-", min_size=1, max_size=300)


@given(cursors)
def test_it_opens_to_what_was_sealed(cursor: str):
    sealed = SEAL.seal(cursor, MINE)
    assert SEAL.open(sealed, MINE) == cursor
    assert set(sealed) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def test_sealed_cursors_differ_and_have_one_length():
    assert len({SEAL.seal("4d2.AY3f", MINE) for _ in range(10)}) == 10
    assert len(SEAL.seal("1.AY3f", MINE)) == len(SEAL.seal("4d2ffff.AY3f0123", MINE))


def test_another_journals_seal_does_not_open_it():
    assert Seal(bytes(31) + b"\1").open(SEAL.seal("4d2.AY3f", MINE), MINE) is None


def test_another_holder_s_does_not_open():
    assert SEAL.open(SEAL.seal("4d2.AY3f", MINE), b"another's") is None
    assert SEAL.open(SEAL.seal("4d2.AY3f", MINE), NO_HOLDER) is None


def test_one_that_was_changed_does_not_open():
    sealed = SEAL.seal("4d2.AY3f", MINE)
    packed = bytearray(base64.urlsafe_b64decode(sealed[2:] + "=="))
    packed[-20] ^= 1
    assert SEAL.open("s." + base64.urlsafe_b64encode(packed).decode().rstrip("="), MINE) is None


@pytest.mark.parametrize("text", ["", "s.", "s.AAAA", "4d2.AY3f", "s.ä" * 9, "s." + "!" * 60])
def test_what_was_never_sealed_is_no_cursor(text: str):
    with pytest.raises(NotACursor):
        SEAL.open(text, MINE)
