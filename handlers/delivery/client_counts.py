"""Counts connected clients by kind: of this process, and of all that share the port. Knows no socket."""

from process.shared_numbers import SharedNumbers

KINDS = ("feed", "dashboards", "raw")
NAME = "changefeed_clients"


class ClientCounts:
    """Keeps the counts in `meters`."""

    def __init__(self, meters: SharedNumbers) -> None:
        self._meters = meters
        self._here = {kind: meters.meter(NAME, kind) for kind in KINDS}

    def add(self, kind: str, count: int) -> None:
        self._here[kind].add(count)

    def here(self) -> dict[str, int]:
        return {kind: int(meter.value) for kind, meter in self._here.items()}

    def everywhere(self) -> dict[str, int]:
        parts = self._meters.everywhere()
        return {kind: int(sum(part.get((NAME, kind), 0) for part in parts)) for kind in KINDS}
