"""Every fault, its outcome, and the table. A fault's function asserts the outcome that is listed here."""

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.faults import clients, database, machine
from tests.faults.site import Site

NOTHING = "nothing"
TOLD = "what could not be recorded; clients get a gap"


@dataclass(frozen=True)
class Fault:
    """`run` gives seconds; its docstring says what is done. `lost` is checked by the followers of `site`."""

    run: Callable[[Site], Awaitable[float]]
    happens: str
    lost: str = NOTHING
    site: Callable[[], Site] = Site
    is_possible: bool = True  # here

    @property
    def name(self) -> str:
        return self.run.__name__


OF_THE_DATABASE = (
    Fault(database.postgres_killed, "the server is not ready, tries again, and goes on from the journal"),
    Fault(database.postgres_stopped_at_once, "the same"),
    Fault(database.postgres_restarted, "the same; the clients stay connected"),
    Fault(database.backend_killed, "the same"),
    Fault(database.connections_terminated, "opened again at once; the statements that ran on them run again"),
    Fault(database.network_cut, "the same"),
    Fault(database.network_deaf, "the listener gets no canary, counts as lost within 8 s, and connects again"),
    Fault(database.server_killed, "the clients come back by their cursors"),
    Fault(database.server_stopped, "the clients get `going_away`, and resume with their cursors"),
    Fault(database.server_frozen, "the changes wait in the journal"),
)
# Their seconds are those of the latest change meanwhile.
OF_CLIENTS = (
    Fault(clients.clients_stuck, "each is closed when its outbox is full, and counted in a metric"),
    Fault(clients.frames_malformed, "each connection is closed"),
    Fault(clients.messages_huge, "closed with 1009 as soon as more than 64 kB are announced or come; memory stays"),
    Fault(clients.bombs_compressed, "nothing is ever inflated: the frame closes the connection, the body is refused"),
    Fault(clients.requests_malformed, "400, or the connection is closed; nothing behind them is taken for a request"),
    Fault(clients.requests_slow, "closed after `--request-seconds`; those who come meanwhile are served"),
    Fault(clients.row_huge, "it comes whole, though it is larger than the outbox"),
)
OF_THE_MACHINE = (
    Fault(
        machine.files_used_up,
        "the oldest that said nothing are closed, then newcomers answered with 503; followers do not notice",
        site=lambda: Site(machine.FEW_FILES),
    ),
    Fault(
        machine.disk_full,
        "statements fail as they would without us, or succeed and are not recorded",
        TOLD,
        machine.FullDisk,
        machine.CAN_MOUNT,
    ),
    Fault(
        machine.journal_full,
        "no statement fails; each that is not recorded is counted",
        TOLD,
        machine.FullJournal,
        machine.CAN_MOUNT,
    ),
    Fault(
        machine.clock_jumps,
        "changes go on; only the charts' buckets are those of the odd clock",
        site=machine.OddClock,
        is_possible=machine.FAKETIME is not None,
    ),
)
FAULTS = (*OF_THE_DATABASE, *OF_CLIENTS, *OF_THE_MACHINE)


def table(measured: Mapping[str, Sequence[float]]) -> str:
    """Of those that were done."""
    parts = (
        ("PostgreSQL, the network, the server", "until all is well, s", OF_THE_DATABASE),
        ("clients", "the latest change for others meanwhile, s", OF_CLIENTS),
        ("the machine", "until all is well, s", OF_THE_MACHINE),
    )
    lines = []
    for head, seconds, faults in parts:
        done = [fault for fault in faults if measured.get(fault.name)]
        if done:
            lines += ["", f"| {head} | what happened | lost | {seconds} |", "|---|---|---|---|"]
        for fault in done:
            what, times = " ".join((fault.run.__doc__ or "").split()).rstrip("."), measured[fault.name]
            lines.append(
                f"| {what} | {fault.happens} | {fault.lost} | {statistics.median(times):.2f} ({max(times):.2f}) |"
            )
    return "\n".join(lines).strip()
