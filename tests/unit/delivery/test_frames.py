"""Frames as RFC 6455 has them, read back by another implementation."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.frames import Opcode
from websockets.protocol import Protocol, Side, State

from handlers.delivery.frames import text_frames


def read(stream: bytes) -> list[Any]:
    """The frames in `stream`, as a client takes them."""
    client = Protocol(Side.CLIENT, state=State.OPEN, max_size=None)
    client.receive_data(stream)
    return client.events_received()


# Where the length needs more bytes: 126 and 65536 of them, which may be fewer characters.
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 1_000_000])
def test_frames_of_any_size_are_read_back(size: int):
    [frame] = read(text_frames(["x" * size]))
    assert (frame.opcode, frame.fin, len(frame.data)) == (Opcode.TEXT, True, size)


@given(st.lists(st.text()))
@example(["ä" * 62 + "x", "ä" * 63, "☃" * 21_845, "☃" * 21_846])
def test_frames_joined_to_one_write_are_read_back_one_by_one(texts: list[str]):
    frames = read(text_frames(texts))
    assert [bytes(frame.data).decode() for frame in frames] == texts
