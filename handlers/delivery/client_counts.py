"""Counts connected clients by kind: of this process, and of all that share the port. Knows no socket."""

from process.shared_numbers import SharedNumbers

KINDS = ("feed", "dashboards", "raw")
NAME = "changefeed_clients"


class ClientCounts:
    """Keeps the counts in `numbers`."""

    def __init__(self, numbers: SharedNumbers) -> None:
        self._numbers = numbers
        self._here = {kind: numbers.number(NAME, kind) for kind in KINDS}

    def add(self, kind: str, count: int) -> None:
        self._here[kind].add(count)

    def here(self) -> dict[str, int]:
        return {kind: int(number.value) for kind, number in self._here.items()}

    def everywhere(self) -> dict[str, int]:
        parts = self._numbers.everywhere()
        return {kind: int(sum(part.get((NAME, kind), 0) for part in parts)) for kind in KINDS}
