"""What the wiring is made of: calls of several functions, and the clocks of the turns."""

from app.assembly import calling_each, publishing_seconds, receiving_seconds
from changefeed.turns import Stopwatch, WorkQueue


def test_calls_are_made_in_their_order_with_the_same_arguments():
    calls: list[tuple[str, int]] = []
    calling_each(lambda number: calls.append(("first", number)), lambda number: calls.append(("second", number)))(7)
    assert calls == [("first", 7), ("second", 7)]


def test_the_clocks_of_the_turns_leave_out_sending():
    work, sending, sending_raw = WorkQueue(), Stopwatch(), Stopwatch()
    work.seconds, sending.seconds = 5.0, 3.0
    assert publishing_seconds(work, sending) == 2.0
    before = receiving_seconds(sending, sending_raw)
    sending.seconds += 1e6
    sending_raw.seconds += 1e6
    assert receiving_seconds(sending, sending_raw) < before - 1.9e6
