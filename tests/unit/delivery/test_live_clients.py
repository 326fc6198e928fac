"""What live clients are sent, in as many turns of the loop as it takes: nothing twice, nothing left out, in order."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changefeed import turns
from changefeed.change.change import Change
from changefeed.change.gap import Gap
from changefeed.selection.filter_kinds import Kind
from changefeed.selection.like import Like
from changefeed.selection.subscription import Selection, Subscription, TableSelection
from changefeed.turns import WorkQueue
from handlers.delivery import audiences as audiences_module
from handlers.delivery import live_clients as live_clients_module
from handlers.delivery.audiences import Audience
from handlers.delivery.dialects import Dialect
from handlers.delivery.live_clients import LiveClient, LiveClients

COLUMNS: Mapping[str, Kind] = {"id": Kind.NUMBER, "n": Kind.NUMBER, "t": Kind.TEXT}
# The ids of the changes and the cursor, both as they are sent.
LISTING = Dialect(
    lambda changes, cursor: json.dumps(
        [[json.loads(change.text)["data"]["id"] for change in changes], cursor]
    ).encode(),
    lambda gap: json.dumps([[], gap.to_cursor]).encode(),
    lambda cursor: json.dumps([[], cursor]).encode(),
    lambda delay_ms: b"",
)
asked = st.fixed_dictionaries(
    {},
    optional={
        "filter": st.sampled_from([["n=eq.1"], ["n=in.(0,1)"], ["n=gt.0"], ["t=like.x*"], ["t=not.like.*y*"]]),
        "columns": st.just(["id"]),
    },
)


class ListeningClient:
    """Takes everything, and knows what it should get: `due` of what was published while it was live."""

    dialect = LISTING
    is_catching_up = False

    def __init__(self, fields: Mapping[str, Sequence[str]], place: int) -> None:
        self.selection = Selection(Subscription.parse(fields), lambda table: COLUMNS)
        self.outbox: Any = SimpleNamespace(send=self.receive)
        self.place = place
        self.due: list[int] = []
        self.messages: list[tuple[list[int], str]] = []
        self.audience: Audience[LiveClient] | None = None

    def trouble(self) -> None:
        """It never has one."""

    def receive(self, buffer: bytes) -> bool:
        ids, cursor = json.loads(buffer)
        self.messages.append((ids, cursor))
        return True

    def assert_got_what_was_due(self) -> None:
        got = [each for ids, _ in self.messages for each in ids]
        assert got == self.due
        place, taken = self.place, 0
        for ids, cursor in self.messages:
            assert int(cursor) >= place  # it never goes back
            place, taken = int(cursor), taken + len(ids)
            # Whoever resumes from it gets the rest: nothing twice, and nothing is left out.
            assert self.due[taken:] == [each for each in self.due if each > place]


def change_of(number: int, n: int, text: str) -> Change:
    row = json.dumps({"id": number, "n": n, "t": text})
    return Change(
        f'{{"table": "a", "action": "INSERT", "data": {row}, "cursor": "{number}"}}', "a", "INSERT", 1, number
    )


def join(clients: LiveClients, client: ListeningClient) -> None:
    live: LiveClient = client  # type: ignore[assignment]
    client.audience = clients.join(live)


def leave(clients: LiveClients, client: ListeningClient) -> None:
    live: LiveClient = client  # type: ignore[assignment]
    assert client.audience
    clients.leave(live, client.audience)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_clients_that_change_between_turns_get_each_change_once(data: st.DataObject):
    copies = data.draw(st.sampled_from([1, 1 << 20]))
    with (
        mock.patch.object(turns, "TURN_SECONDS", 0.0),
        mock.patch.object(live_clients_module, "SENDING_SLICE", 1),
        mock.patch.object(audiences_module, "COPIES_LIMIT_CHARACTERS", copies),
    ):
        asyncio.run(come_and_go(data))


async def come_and_go(data: st.DataObject) -> None:
    clients, published = LiveClients(), 0
    live: list[ListeningClient] = []
    for step in data.draw(
        st.lists(st.sampled_from(["publish", "publish", "join", "join", "turn", "turn", "again", "advance"]))
    ):
        match step:
            case "publish":
                numbers = range(published + 1, published + 1 + data.draw(st.integers(1, 3)))
                changes = [
                    change_of(i, data.draw(st.integers(0, 2)), data.draw(st.sampled_from("xy"))) for i in numbers
                ]
                published = numbers[-1]
                for client in live:
                    client.due += [change.id for change in client.selection.pick(changes)]
                clients.broadcast(changes, str(published))
            case "join":
                live.append(ListeningClient(data.draw(asked), published))
                join(clients, live[-1])
            case "turn":
                await asyncio.sleep(0)
            case "advance":
                clients.advance_cursors()
            case "again" if live:
                await clients.settled()
                client = live.pop(0)
                leave(clients, client)
                client.assert_got_what_was_due()
                live.append(ListeningClient(data.draw(asked), published))
                join(clients, live[-1])
    await clients.settled()
    for client in live:
        client.assert_got_what_was_due()


async def most_in_one_turn(filters: int, rows: int, after: str = "joining") -> int:
    """The most comparisons of a filter with a row, and lookups of a filter's columns, between two turns of others."""
    work, done, most = WorkQueue(), 0, 0
    clients = LiveClients(work=work)

    def count(*_: object) -> None:
        nonlocal done
        done += 1

    def columns(table: str) -> Mapping[str, Kind]:
        count()
        return COLUMNS

    for number in range(filters):
        client = ListeningClient({"filter": [f"t=like.*x{number}*"]}, 0)
        client.selection = Selection(client.selection.subscription, columns)
        join(clients, client)
    with mock.patch.object(TableSelection, "pick", count):
        if after == "a change of the schema":
            clients.broadcast([change_of(1, 0, "y")], "1")
            await clients.settled()
            clients.refresh_columns()
        done = 0
        clients.broadcast([change_of(number, 0, "y") for number in range(2, rows + 2)], str(rows + 1))
        most = done
        while not work.is_empty:
            done = 0
            await asyncio.sleep(0)
            most = max(most, done)
    return most


@pytest.mark.parametrize("after", ["joining", "a change of the schema"])
@pytest.mark.parametrize(("filters", "rows"), [(10, 10), (20, 10), (40, 10), (10, 20), (10, 40)])
def test_one_turn_does_no_more_for_more_filters_or_rows(filters: int, rows: int, after: str):
    with mock.patch.object(turns, "TURN_SECONDS", 0.0):
        assert asyncio.run(most_in_one_turn(filters, rows, after)) == 1


def test_a_gap_keeps_its_place_and_skips_later_clients():
    async def publish_and_join() -> list[list[tuple[list[int], str]]]:
        clients, ours = LiveClients(), [ListeningClient({}, 0) for _ in range(3)]
        join(clients, ours[0])
        join(clients, ours[1])
        clients.broadcast([change_of(1, 0, "")], "1")
        clients.tell_gap(Gap("something was lost", "1", "1"))
        join(clients, ours[2])
        await clients.settled()
        return [client.messages for client in ours]

    with mock.patch.multiple(live_clients_module, SENDING_SLICE=1), mock.patch.object(turns, "TURN_SECONDS", 0.0):
        first, second, late = asyncio.run(publish_and_join())
    assert first == second == [([1], "1"), ([], "1")]
    assert late == []


def test_equal_patterns_are_matched_once_per_row():
    async def publish() -> int:
        clients = LiveClients()
        for filters in (["t=like.*x_*"], ["t=like.*x_*", "n=eq.0"], ["t=not.like.*x_*"]):
            join(clients, ListeningClient({"filter": filters}, 0))
        with mock.patch.object(Like, "__call__", return_value=True) as compare:
            clients.broadcast([change_of(1, 0, "x1")], "1")
        return compare.call_count

    assert asyncio.run(publish()) == 1
