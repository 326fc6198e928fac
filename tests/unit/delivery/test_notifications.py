"""Which clients a notification goes to: those that follow its channel."""

from changefeed.hub import PLAIN_CHANNEL
from handlers.delivery.delivery_counts import DELIVERIES
from handlers.delivery.notifications import JOURNAL_CHANNEL
from tests.unit.delivery.ground import Ground, Raw


def test_each_payload_goes_to_the_followers_of_its_channel():
    ground = Ground()
    raw = Raw(ground.raw_clients, "people")
    ground.notifications.hand_on({"people": ["x"], PLAIN_CHANNEL: ["[1]"], JOURNAL_CHANNEL: ["", ""]})
    assert (ground.published, ground.woken) == (["[1]"], 1)
    assert (len(raw.sent), ground.count(DELIVERIES, "raw")) == (1, 1)
    ground.notifications.hand_on({"people": ["y"]})
    assert (ground.published, ground.woken) == (["[1]"], 1)


def test_without_the_plain_channel_only_raw_clients_get_it():
    ground = Ground(takes_plain=False)
    raw = Raw(ground.raw_clients, PLAIN_CHANNEL)
    ground.notifications.hand_on({PLAIN_CHANNEL: ["[1]"]})
    assert (ground.published, len(raw.sent)) == ([], 1)
    assert ground.notifications.channels == (JOURNAL_CHANNEL,)
