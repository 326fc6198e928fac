"""One process hands its counts to the next."""

import asyncio
import json
from pathlib import Path

from app.assembly import make_context
from app.serve import hand_over, take_over
from changefeed.change.change import parse_payload
from handlers.delivery.change_counts import NAME
from handlers.http.context import ProcessSlot, ServerContext
from settings.sources import load_settings

INSERTED = NAME, "orders", "INSERT"


def process(slot: ProcessSlot) -> ServerContext:
    """The parts of a server that is not started."""
    flags = ["--database-url", "postgresql://127.0.0.1/none"]
    return make_context(load_settings(flags, {}, Path("/nonexistent")), flags[1], "none", slot=slot)


def count_inserts(context: ServerContext, number: int) -> None:
    context.hub.tally.count([parse_payload('{"table": "orders", "action": "INSERT"}')] * number, now=0)


def test_a_new_process_counts_on_from_what_another_handed_over():
    async def check() -> None:
        slot = ProcessSlot()
        old = process(slot)
        count_inserts(old, 3)
        counts = json.loads(json.dumps(hand_over(old)))
        assert slot.numbers.number(*INSERTED).value == 3  # sampled at once: the other process begins from there
        new = process(slot)
        take_over(new, counts)
        new.change_counts.sample()
        assert slot.numbers.number(*INSERTED).value == 3
        count_inserts(new, 2)
        new.change_counts.sample()
        assert slot.numbers.number(*INSERTED).value == 5
        assert sum(new.hub.tally.totals["orders"]) == 5
        for context in (old, new):
            context.close()

    asyncio.run(check())
