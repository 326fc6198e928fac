"""What the wiring is made of: calls in turn."""

from app.assembly import in_turn


def test_calls_are_made_in_their_order_with_the_same_arguments():
    calls: list[tuple[str, int]] = []
    in_turn(lambda number: calls.append(("first", number)), lambda number: calls.append(("second", number)))(7)
    assert calls == [("first", 7), ("second", 7)]
