"""`python -m tests.faults --rounds 5`: does every fault, and prints the table of docs/faults.md.

Exits 1 where something else came of one than stands there. Two need root, to fill a disk of their own, and one needs
libfaketime; without, they are left out.
"""

import argparse
import datetime
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterable

import uvloop

from tests.faults.report import FAULTS, Fault, table
from tests.faults.site import Site


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is done (default: 5)")
    parser.add_argument("--only", nargs="+", choices=[fault.name for fault in FAULTS], metavar="FAULT")
    chosen = parser.parse_args()
    faults = [fault for fault in FAULTS if fault.name in (chosen.only or [fault.name])]
    for fault in faults:
        if not fault.is_possible:
            print(f"left out, since it cannot be done here: {fault.name}", file=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as after Ctrl-C, what was started is ended
    measured: dict[str, list[float]] = {}
    failures = 0
    # The rounds are the outermost loop, so that a slow minute of the machine is nobody's alone.
    for _ in range(chosen.rounds):
        for site, group in _by_site(fault for fault in faults if fault.is_possible):
            try:
                uvloop.run(_do(site, group, measured))
            except AssertionError as error:
                failures += 1
                print(f"FAILED: {error}", file=sys.stderr, flush=True)
    print(table(measured))
    print(
        f"\n{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores,"
        f" load {os.getloadavg()[1]:.0f}, Python {platform.python_version()}; medians of {chosen.rounds}, and (the worst)."
    )
    return 1 if failures else 0


def _by_site(faults: Iterable[Fault]) -> list[tuple[Callable[[], Site], list[Fault]]]:
    groups: dict[Callable[[], Site], list[Fault]] = {}
    for fault in faults:
        groups.setdefault(fault.site, []).append(fault)
    return list(groups.items())


async def _do(make: Callable[[], Site], faults: list[Fault], measured: dict[str, list[float]]) -> None:
    async with make() as site:
        for fault in faults:
            print(fault.name, end=" ", file=sys.stderr, flush=True)
            seconds = await fault.run(site)
            print(f"{seconds:.2f} s", file=sys.stderr, flush=True)
            measured.setdefault(fault.name, []).append(seconds)


if __name__ == "__main__":
    sys.exit(main())
