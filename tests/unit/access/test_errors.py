"""What an error tells, and whom."""

import psycopg2
import pytest
from tornado.testing import ExpectLog

from changefeed.postgres.pool import DatabaseUnavailable, DeadlinePassed
from handlers.access.errors import ApiError, database_needed


def test_names_in_postgresqls_errors_go_to_the_log_only():
    with (
        ExpectLog("handlers.errors", ".*permission denied for schema payroll"),
        pytest.raises(ApiError) as told,
        database_needed("the journal cannot be read"),
    ):
        raise psycopg2.errors.InsufficientPrivilege("permission denied for schema payroll")
    assert told.value.message.startswith("the journal cannot be read: PostgreSQL refuses it")
    assert "payroll" not in told.value.message


@pytest.mark.parametrize(
    ("error", "told_why"),
    [
        (DatabaseUnavailable('connection to server at "db.payroll", port 5432 failed'), "PostgreSQL cannot be reached"),
        (DeadlinePassed("PostgreSQL did not answer within 30 s"), "PostgreSQL did not answer within 30 s"),
    ],
)
def test_the_address_and_role_of_postgresql_are_only_logged(error: DatabaseUnavailable, told_why: str):
    with pytest.raises(ApiError) as told, database_needed("the journal cannot be read"):
        raise error
    assert told_why in told.value.message
    assert "payroll" not in told.value.message
