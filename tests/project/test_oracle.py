"""The oracle in its short form: every kind of fault once, then everything must be equal. `make soak` is the long form."""

import os
import secrets

import pytest
import uvloop

from tests.oracle.run import Oracle, Plan


@pytest.mark.timeout(240)
def test_readers_equal_the_tables_after_every_fault() -> None:
    plan = Plan(
        os.environ.get("SEED") or secrets.token_hex(4),
        rounds=0,
        every_kind=True,
        writers=3,
        readers_of_each_kind=1,
        rounds_between_checkpoints=100,
        pause_seconds=0.9,
        huge_rows=10_000,
    )
    print(f"oracle: seed {plan.seed}")
    uvloop.run(Oracle(plan).run())
