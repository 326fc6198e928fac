"""`python -m tests.soak --minutes 60`: figures each minute on stderr, the table and what drifts on stdout.

Exits 1 where a change was lost or doubled, or the server's log tells of a mistake.
"""

import argparse
import datetime
import os
import platform
import signal
import sys

import uvloop

from tests.soak.figures import drift, table
from tests.soak.run import Plan, Soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--rate", type=float, default=500.0, help="changes per second (default: 500)")
    parser.add_argument("--visitors", type=int, default=24, help="who come and go, at a time (default: 24)")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as after Ctrl-C, what was started is ended
    soak = Soak(Plan(chosen.minutes, chosen.rate, chosen.visitors))
    failure = None
    try:
        uvloop.run(soak.run())
    except AssertionError as error:
        failure = error
    if soak.figures:
        print(table(soak.figures), drift(soak.figures), soak.summary(), sep="\n\n")
    print(
        f"\n{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores,"
        f" Python {platform.python_version()}."
    )
    if failure:
        print(f"soak: FAILED: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
