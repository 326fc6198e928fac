"""The newest changes in, those of a subscription out, found in as many turns of the loop as that takes."""

from collections.abc import Sequence

from changefeed.change.change import Change
from changefeed.hub import RECENT_LIMIT, Hub
from changefeed.selection.subscription import Selection
from changefeed.turns import Turn


class Replay:
    """What a new client is sent first. examine() does the work beforehand; newest() adds what came since."""

    def __init__(self, hub: Hub, selection: Selection) -> None:
        self._hub = hub
        self._selection = selection
        self._selected: list[Change] = []
        self._last: Change | None = None  # that was examined
        self._recalls = hub.recalls

    async def examine(self) -> None:
        turn = Turn()
        for change in self._unexamined():
            self._examine(change)
            if turn.is_over:
                await turn.end()

    def newest(self, limit: int) -> Sequence[Change]:
        """The newest changes that are selected, oldest first."""
        for change in self._unexamined():
            self._examine(change)
        return self._selected[-limit:]

    def _examine(self, change: Change) -> None:
        self._selected += self._selection.pick([change])
        self._last = change

    def _unexamined(self) -> Sequence[Change]:
        recent = self._hub.newest(RECENT_LIMIT)
        if self._recalls == self._hub.recalls:
            for number, change in enumerate(reversed(recent)):
                if change is self._last:
                    return recent[len(recent) - number :]
        self._recalls = self._hub.recalls
        self._selected.clear()  # the hub has other changes now
        return recent
