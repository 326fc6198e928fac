"""Ours beside the peers, on this machine, in one go: prints a Markdown table. `python -m benchmarks --help`.

What stands in parentheses is how many times better a figure is than that of Python websockets and asyncpg.
"""

import argparse
import datetime
import os
import platform
import signal
import sys

from benchmarks.crowd import CouldNot, raise_file_limit
from benchmarks.database import database
from benchmarks.scenarios import MANY, SCENARIOS, Figures, Ground, Scenario
from benchmarks.servers import SERVERS, WEBSOCKETS, Server
from benchmarks.table import table


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as after Ctrl-C, what was started is ended
    scenarios = [SCENARIOS[name] for name in options.only]
    servers = [server for server in SERVERS if server.is_installed]
    for server in SERVERS:
        if server not in servers:
            print(f"left out, since it is not installed: {server.name} (make benchmark installs it)", file=sys.stderr)
    raise_file_limit(MANY)
    outcomes: dict[tuple[Scenario, Server], list[Figures | CouldNot]] = {}
    with database() as opened:
        ground = Ground(opened, seconds=0.5 if options.quick else 1.5)
        # The rounds are the outermost loop, so that a slow minute of the machine is nobody's alone.
        for number in range(1 if options.quick else options.rounds):
            for scenario in scenarios:
                for server in servers:
                    if server in scenario.servers:
                        print(f"round {number + 1}: {scenario.name}: {server.name}", file=sys.stderr, flush=True)
                        outcomes.setdefault((scenario, server), []).append(_measure(scenario, ground, server))
        version = opened.version
    print(table(outcomes, servers, WEBSOCKETS))
    print(
        f"\n{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores,"
        f" Python {platform.python_version()}, PostgreSQL {version}; medians of {1 if options.quick else options.rounds}."
    )
    if ground.busiest:
        share, where = max(ground.busiest)
        print(f"The load client was busiest with {where}: {share:.0%} of its core.")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="the table has their medians (default: 3)")
    parser.add_argument("--quick", action="store_true", help="one short round, for a first look")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), metavar="SCENARIO",
                        help=f"of {', '.join(SCENARIOS)}")  # fmt: skip
    return parser.parse_args()


def _measure(scenario: Scenario, ground: Ground, server: Server) -> Figures | CouldNot:
    try:
        return scenario.measure(ground, server)
    except CouldNot as reason:
        print(f"    {reason}", file=sys.stderr)
        return reason


if __name__ == "__main__":
    main()
