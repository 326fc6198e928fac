"""The faults that cost little, once each; those of PostgreSQL and the network the oracle does too. All: `make faults`."""

import pytest
import uvloop

from tests import ROOT
from tests.faults.report import FAULTS, OF_CLIENTS, Fault, table
from tests.faults.site import Site

DOCUMENT = (ROOT / "docs" / "faults.md").read_text("utf-8")


@pytest.mark.timeout(300)
def test_no_fault_of_a_client_harms_another():
    async def do_all() -> None:
        async with Site() as site:
            for fault in OF_CLIENTS:
                try:
                    await fault.run(site)
                except (AssertionError, OSError, TimeoutError) as error:
                    raise AssertionError(f"{fault.name}: {error!r}") from error

    uvloop.run(do_all())


def test_the_table_has_each_faults_action_and_duration():
    measured = {fault.name: [3.0, 1.0, 2.0] for fault in FAULTS}
    lines = table(measured).splitlines()
    assert len([line for line in lines if line.endswith("| 2.00 (3.00) |")]) == len(FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_fault_is_in_the_document(fault: Fault):
    assert " ".join((fault.run.__doc__ or "").split()).rstrip(".") in DOCUMENT
