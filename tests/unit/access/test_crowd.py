"""Which client is closed when a newcomer needs its place."""

from handlers.access.crowd import Crowd


def test_the_longest_waiting_of_the_heaviest_address_goes():
    crowd: Crowd[str] = Crowd(4)
    for name, address in (("a1", "a"), ("b1", "b"), ("b2", "b"), ("b3", "b")):
        assert crowd.add(name, address) == []
    assert crowd.add("c1", "c") == ["b1"]
    assert crowd.add("c2", "c") == ["b2"]
    assert (len(crowd), crowd.weight) == (4, 4)


def test_a_heavy_newcomer_stays_though_it_is_alone_too_heavy():
    crowd: Crowd[str] = Crowd(10)
    crowd.add("a1", "a", 6)
    crowd.add("a2", "a", 4)
    assert crowd.add("b1", "b", 20) == ["a1", "a2"]
    assert crowd.add("b2", "b", 1) == ["b1"]
    assert crowd.weight == 1


def test_a_client_that_left_makes_room():
    crowd: Crowd[str] = Crowd(2)
    crowd.add("a1", "a")
    crowd.add("a2", "a")
    crowd.discard("a1")
    crowd.discard("a1")
    assert crowd.add("a2", "a") == []
    assert crowd.add("a3", "a") == []
    assert (len(crowd), crowd.weight) == (2, 2)


def test_an_empty_crowd_keeps_no_address():
    crowd: Crowd[int] = Crowd(5)
    for number in range(100):
        crowd.add(number, str(number))
    for number in range(100):
        crowd.discard(number)
    assert (crowd.weight, crowd._addresses, crowd._by_address) == (0, {}, {})
