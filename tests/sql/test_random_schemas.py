"""The oracle of random schemas in its short form, always the same ones; `make soak` runs a thousand others."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import postgres
from tests.oracle.random_schemas import CLUSTER, check

SEED = os.environ.get("SEED", "7")
SCHEMAS = 30


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with postgres.used(**CLUSTER):
        yield


@pytest.mark.parametrize("number", range(SCHEMAS))
def test_what_is_sent_of_a_random_schema_is_what_happened(number: int):
    check(f"{SEED}-{number}")


@pytest.mark.parametrize("binaries", postgres.others(), ids=str)
@pytest.mark.timeout(300)
def test_the_same_on_another_postgresql(binaries: Path):
    with postgres.used(binaries, **CLUSTER):
        for number in range(10):
            check(f"{SEED}-{number}")
