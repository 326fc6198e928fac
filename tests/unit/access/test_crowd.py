"""Which client is closed when a newcomer needs its place."""

from changefeed.owners import Owner
from handlers.access.crowd import Crowd


def at(address: str, holder: str | None = None) -> Owner:
    return Owner(holder, address)


def test_the_longest_waiting_of_the_heaviest_address_goes():
    crowd: Crowd[str] = Crowd(4)
    for name, address in (("a1", "a"), ("b1", "b"), ("b2", "b"), ("b3", "b")):
        assert crowd.add(name, at(address)) == []
    assert crowd.add("c1", at("c")) == ["b1"]
    assert crowd.add("c2", at("c")) == ["b2"]
    assert (len(crowd), crowd.weight) == (4, 4)


def test_a_heavy_newcomer_stays_though_it_is_alone_too_heavy():
    crowd: Crowd[str] = Crowd(10)
    crowd.add("a1", at("a"), 6)
    crowd.add("a2", at("a"), 4)
    assert crowd.add("b1", at("b"), 20) == ["a1", "a2"]
    assert crowd.add("b2", at("b"), 1) == ["b1"]
    assert crowd.weight == 1


def test_a_client_that_left_makes_room():
    crowd: Crowd[str] = Crowd(2)
    crowd.add("a1", at("a"))
    crowd.add("a2", at("a"))
    crowd.discard("a1")
    crowd.discard("a1")
    assert crowd.add("a2", at("a")) == []
    assert crowd.add("a3", at("a")) == []
    assert (len(crowd), crowd.weight) == (2, 2)


def test_an_empty_crowd_keeps_no_address():
    crowd: Crowd[int] = Crowd(5)
    for number in range(100):
        crowd.add(number, at(str(number), str(number % 7)))
    for number in range(100):
        crowd.discard(number)
    assert (crowd.weight, crowd._owners, crowd._of_owners, crowd._weights) == (0, {}, {}, {})


def test_the_heaviest_address_of_the_heaviest_token_goes():
    crowd: Crowd[str] = Crowd(10)
    for name, owner in (("a1", at("1", "a")), ("b1", at("1", "b")), ("b2", at("2", "b"))):
        crowd.add(name, owner, 3)
    assert crowd.add("b3", at("2", "b"), 1) == []
    assert crowd.add("a2", at("1", "a"), 1) == ["b2"]
