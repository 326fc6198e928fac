"""What an error tells, and whom."""

import psycopg2
import pytest
from tornado.testing import ExpectLog

from handlers.access.errors import ApiError, database_needed


def test_what_postgresql_says_of_names_is_for_the_log():
    with (
        ExpectLog("handlers.errors", ".*permission denied for schema payroll"),
        pytest.raises(ApiError) as told,
        database_needed("the journal cannot be read"),
    ):
        raise psycopg2.errors.InsufficientPrivilege("permission denied for schema payroll")
    assert told.value.message.startswith("the journal cannot be read: PostgreSQL refuses it")
    assert "payroll" not in told.value.message
