"""How much each owner may have, what shared things count for, and whose turn is next."""

from unittest import mock

import pytest

from changefeed.owners import Holding, Line, Owner, Quotas

A1, A2, B1 = Owner("a", "1"), Owner("a", "2"), Owner("b", "1")
ADDRESS, OTHER_ADDRESS = Owner(None, "1"), Owner(None, "2")


def held(quotas: Quotas, amount: int, *owners: Owner) -> Holding:
    holding = Holding(quotas)
    for owner in owners:
        holding.join(owner)
    holding.grow(amount)
    return holding


@pytest.mark.parametrize(("limit", "of_a_party", "of_an_address"), [(1, 1, 1), (2, 1, 1), (4, 3, 2), (100, 75, 50)])
def test_quotas_leave_room_for_others(limit: int, of_a_party: int, of_an_address: int):
    quotas = Quotas(limit)
    assert quotas.have_room(A1, of_an_address)
    assert not quotas.have_room(A1, of_an_address + 1)
    assert quotas.have_room(ADDRESS, of_a_party)
    assert not quotas.have_room(ADDRESS, of_a_party + 1)
    assert Quotas(limit, divided=False).have_room(A1, limit)


def test_addresses_of_a_holder_have_together_what_a_holder_may_have():
    quotas = Quotas(8)
    held(quotas, 4, A1)
    assert quotas.have_room(A2, 2)
    assert not quotas.have_room(A2, 3)
    assert quotas.have_room(B1, 4)
    held(quotas, 4, B1)
    assert quotas.is_used_up
    assert not quotas.have_room(OTHER_ADDRESS)


def test_what_owners_share_counts_once_for_each_party():
    quotas = Quotas(8)
    shared = held(quotas, 2, A1, A1, A2, B1)
    assert quotas.used == 2
    assert [quotas.used_by(party) for party in (("a",), A1, A2, ("b",), B1)] == [2] * 5
    shared.leave(A1)
    shared.leave(A2)
    assert [quotas.used_by(party) for party in (("a",), A1, A2)] == [2, 2, 0]
    shared.leave(A1)
    assert quotas.used_by(("a",)) == 0
    shared.clear()
    shared.leave(B1)
    assert (quotas.used, dict(quotas._used)) == (0, {})


def test_one_owner_with_room_is_enough():
    quotas = Quotas(4)
    held(quotas, 2, A1)
    assert not held(quotas, 0, A1).may_grow()
    assert held(quotas, 0, A1, B1).may_grow()
    assert not held(quotas, 0).may_grow()


def test_holders_have_turns_and_then_their_addresses():
    line = Line[str]()
    for owner, item in ((A1, "a1"), (A1, "a2"), (A2, "a3"), (B1, "b1"), (B1, "b2"), (ADDRESS, "c1"), (A1, "a4")):
        line.add(owner, item)
    line.discard(A1, "a4")
    line.discard(A1, "unknown")
    assert [line.take() for _ in range(6)] == ["a1", "b1", "c1", "a3", "b2", "a2"]
    assert not line


def test_the_one_with_least_goes_first():
    line, quotas = Line[str](), Quotas(8)
    for owner, item in ((A1, "a1"), (A2, "a2"), (B1, "b1")):
        line.add(owner, item)
    held(quotas, 4, A1)
    held(quotas, 1, B1)
    assert [line.take_within(quotas) for _ in range(3)] == ["b1", "a2", None]
    assert line


@pytest.mark.parametrize("holder", ["a", None])
@pytest.mark.parametrize("used", [1, 3])
def test_the_next_one_is_found_without_a_look_at_all(holder: str | None, used: int):
    looks: list[int] = []
    for count in (100, 200, 400):
        quotas = Quotas(4)
        line = Line[int]()
        for number in range(count):
            line.add(Owner(holder, str(number)), number)
        held(quotas, 1, Owner(holder, "x"))
        held(quotas, used - 1, Owner(holder, "y"))
        with mock.patch.object(Quotas, "have_room", autospec=True, side_effect=Quotas.have_room) as look:
            line.take_within(quotas)
        looks.append(look.call_count)
    assert len({*looks}) == 1
