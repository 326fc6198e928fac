"""`python -m tests.oracle --rounds 1000 --seed 7`: the long form. Prints a line at each checkpoint and a summary."""

import argparse
import secrets
import sys

import uvloop

from tests.oracle.run import Oracle, Plan


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000, help="how many faults (default: 1000)")
    parser.add_argument(
        "--seed", default=secrets.token_hex(4), help="of everything random (default: another each time)"
    )
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument(
        "--pause", type=float, default=0.5, help="seconds between two faults, on average (default: 0.5)"
    )
    parser.add_argument("--checkpoint", type=int, default=25, help="rounds between two comparisons (default: 25)")
    parser.add_argument("--kind", action="append", default=[], help="only this kind of fault; repeatable")
    chosen = parser.parse_args()
    plan = Plan(
        chosen.seed,
        chosen.rounds,
        rounds_between_checkpoints=chosen.checkpoint,
        writers=chosen.writers,
        pause_seconds=chosen.pause,
        kinds=tuple(chosen.kind),
    )
    print(f"oracle: seed {chosen.seed}, {chosen.rounds} rounds", file=sys.stderr, flush=True)
    oracle = Oracle(plan)
    try:
        uvloop.run(oracle.run())
    except AssertionError as error:
        print(f"oracle: FAILED: {error}", file=sys.stderr)
        return 1
    print(f"oracle: seed {chosen.seed}: all equal after {oracle.summary()}", file=sys.stderr)
    for name, count in sorted(oracle.rounds.items()):
        print(f"  {count:5} {name}", file=sys.stderr)
    print(
        "  writers: " + ", ".join(f"{count} {name}" for name, count in sorted(oracle.writes.items())), file=sys.stderr
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
