"""An outage of the listener is a gap if payloads are not stored, and closes raw clients."""

import asyncio

import pytest

from handlers.delivery.delivery_counts import CLIENTS_DROPPED
from handlers.delivery.outages import OUTAGES_KEPT
from tests.unit.delivery.ground import OUTAGE, Ground, Raw


@pytest.mark.parametrize(
    ("takes_plain", "cache", "has_plain_triggers", "is_told"),
    [
        (True, None, False, True),  # no journal keeps anything
        (True, "journal", True, True),
        (True, "journal", False, False),
        (False, "journal", True, False),
        (False, None, False, True),
    ],
)
def test_an_outage_is_a_gap_if_unstored_payloads_exist(
    takes_plain: bool, cache: str | None, has_plain_triggers: bool, is_told: bool
):
    async def tell() -> Ground:
        ground = Ground(takes_plain=takes_plain, cache=cache, has_plain_triggers=has_plain_triggers)
        Raw(ground.raw_clients, "people")
        ground.outages.tell(OUTAGE)
        await asyncio.gather(*ground.outages._telling)
        return ground

    ground = asyncio.run(tell())
    assert [gap.why for gap in ground.gaps] == ["the server received no notifications: the connection broke"] * is_told
    assert (ground.raw_clients.connected, ground.count(CLIENTS_DROPPED, "raw", "deaf")) == ([], 1)


def test_a_received_plain_payload_proves_plain_triggers():
    async def tell() -> Ground:
        ground = Ground(cache="journal")
        ground.hub.receive(["[1]"])
        ground.outages.tell(OUTAGE)
        await asyncio.gather(*ground.outages._telling)
        return ground

    assert len(asyncio.run(tell()).gaps) == 1


def test_a_stopped_server_sends_no_gap_of_an_outage():
    async def tell() -> Ground:
        ground = Ground()
        for _ in range(OUTAGES_KEPT + 1):
            ground.outages.tell(OUTAGE)
        telling = list(ground.outages._telling)
        ground.outages.close()
        await asyncio.gather(*telling, return_exceptions=True)
        return ground

    ground = asyncio.run(tell())
    assert (ground.gaps, len(ground.outages.recent)) == ([], OUTAGES_KEPT)
