"""Watching a watched table with other options: no gap where nothing was missed, and one where something was."""

from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest

from changefeed.postgres.named_queries import load_queries
from tests.sql.test_least_rights import Ground
from tests.sql.test_unrecorded import LOOK

# Each with a column to leave out or to hash: a table, one with a partition, one that another inherits from.
TABLES = {"app.orders": "secret", "app.parts": "k", "app.parent": "k"}
OPTIONS = ("row_limit => 10", "omit => '{{{0}}}'", "hash => '{{{0}}}'", "strict => true", "strict => false")
UNRECORDED = "ALTER TABLE {0} DISABLE TRIGGER USER; INSERT INTO {0} VALUES (2); ALTER TABLE {0} ENABLE TRIGGER USER"


@pytest.fixture(params=[True, False], ids=["a superuser's", "an owner's"])
def ground(request: pytest.FixtureRequest) -> Ground:
    ground = Ground(is_superuser=request.param)
    ground.app.run("CREATE TABLE app.parent (k int); CREATE TABLE app.child () INHERITS (app.parent)")
    ground.app.run(f"GRANT TRIGGER ON app.parent TO {ground.roles['owner']}, {ground.roles['watching']}")
    return ground


def look(ground: Ground) -> dict[str, str]:
    return dict(ground.root.run(LOOK, [], []))


def watch(ground: Ground, who: str, table: str, option: str = "row_limit => NULL") -> bool:
    session = ground.root if who == "root" else ground.session(who)
    return bool(session.value(f"SELECT changefeed.watch('{table}', {option.format(TABLES[table])})"))


WHO = pytest.mark.parametrize("who", ["watching", "owner", "root"])


@WHO
def test_other_options_are_no_gap(ground: Ground, who: str):
    for table in TABLES:
        watch(ground, "root", table)
        ground.app.run(f"INSERT INTO {table} VALUES (1)")
    look(ground)
    for table in TABLES:
        for option in OPTIONS:
            assert watch(ground, who, table, option)
            assert look(ground) == {}, option
        assert not watch(ground, who, table)
        for option in OPTIONS:  # between two looks
            watch(ground, who, table, option)
    assert look(ground) == {}
    assert ground.root.run("SELECT bool_and(is_complete) FROM changefeed.status()") == [(True,)]


@WHO
def test_an_unrecorded_write_is_a_gap_with_any_options_after_it(ground: Ground, who: str):
    for table in TABLES:
        watch(ground, "root", table)
    look(ground)
    for table in TABLES:
        for option in OPTIONS:
            ground.app.run(UNRECORDED.format(table))
            watch(ground, who, table, option)
            assert list(look(ground)) == [table.removeprefix("app.")], option
            assert look(ground) == {}
        watch(ground, who, table, "row_limit => 11")  # which no look sees
        ground.app.run(UNRECORDED.format(table))
        watch(ground, who, table, "row_limit => 12")
        assert list(look(ground)) == [table.removeprefix("app.")]


def test_what_a_refresh_repairs_was_a_gap_and_what_it_changes_is_none():
    ground = Ground(is_superuser=True)
    watch(ground, "watching", "app.orders")
    look(ground)
    ground.app.run("CREATE TABLE app.heir () INHERITS (app.orders)")  # from now on its triggers are of each row
    ground.session("tending").run("SELECT changefeed.refresh()")
    ground.app.run("DROP TABLE app.heir")
    ground.session("tending").run("SELECT changefeed.refresh()")
    assert look(ground) == {}
    ground.app.run('DROP TRIGGER "~changefeed_insert" ON app.orders; INSERT INTO app.orders VALUES (1)')
    ground.session("tending").run("SELECT changefeed.refresh()")
    assert list(look(ground)) == ["orders"]


def test_a_refused_request_is_no_gap_and_hides_none(ground: Ground):
    watch(ground, "watching", "app.orders")
    look(ground)
    session = ground.session("watching")
    with ground.app.connection, ground.app.connection.cursor() as db_cursor:
        db_cursor.execute("BEGIN; INSERT INTO app.orders VALUES (1)")
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            watch(ground, "watching", "app.orders", "row_limit => 5")
        db_cursor.execute("COMMIT")
    assert look(ground) == {}
    session.run("BEGIN; SELECT changefeed.watch('app.orders', row_limit => 5); ROLLBACK")
    assert look(ground) == {}
    ground.app.run(UNRECORDED.format("app.orders"))
    session.run("BEGIN; SELECT changefeed.watch('app.orders', row_limit => 5); ROLLBACK")
    assert watch(ground, "watching", "app.orders", "row_limit => 6")
    assert list(look(ground)) == ["orders"]


@pytest.mark.parametrize("table", ["app.orders", "app.parts", "app.p1"])
def test_what_ends_while_watch_waits_for_its_lock_is_a_gap(table: str):
    ground = Ground(is_superuser=True)
    target = table.replace("p1", "parts")
    watch(ground, "root", target)
    look(ground)
    watching = ground.session("owner")
    pid = watching.value("SELECT pg_backend_pid()")
    with ThreadPoolExecutor(1) as pool:
        ground.app.run(f"BEGIN; {UNRECORDED.format(table)}")
        # As watch() does, but with the patience to wait until the other transaction ends.
        waiting = pool.submit(
            watching.run, f"SELECT changefeed.try_to_apply('{target}'::regclass, '{{\"limit\": 5}}', 60000)"
        )
        while not ground.root.value("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = %s)", pid):
            assert not waiting.done()
        ground.app.run("COMMIT")
        assert waiting.result() == [(True,)]
    assert list(look(ground)) == [target.removeprefix("app.")]
    assert look(ground) == {}


def test_a_trigger_of_another_s_with_a_request_s_name_is_kept(ground: Ground):
    ground.app.run("CREATE FUNCTION app.theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    ground.app.run("CREATE TRIGGER changefeed_request AFTER INSERT ON app.orders EXECUTE FUNCTION app.theirs()")
    with pytest.raises(psycopg2.errors.DuplicateObject, match="a trigger changefeed_request that is not one of"):
        watch(ground, "watching", "app.orders")
    assert watch(ground, "root", "app.orders")  # which needs no request


def test_a_request_is_granted_once_and_goes_when_its_table_is_unwatched(ground: Ground):
    watch(ground, "watching", "app.orders", "omit => '{{{0}}}'")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        ground.session("watching").run("SELECT changefeed.grant_request('app.orders')")
    ground.root.run("SELECT changefeed.unwatch('app.orders')")
    assert ground.root.run("SELECT FROM pg_trigger WHERE tgrelid = 'app.orders'::regclass") == []


def test_a_granted_request_alone_watches_nothing(ground: Ground):
    watch(ground, "watching", "app.orders")
    for (name,) in ground.root.run(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = 'app.orders'::regclass AND tgname <> 'changefeed_request'"
    ):
        ground.app.run(f'DROP TRIGGER "{name}" ON app.orders')
    with ground.root.connection.cursor() as db_cursor:
        db_cursor.execute(load_queries("server.sql")["tables like"], {"schema": "app", "table": "orders"})
        assert db_cursor.fetchall() == [("app", "orders", False)]


def test_a_disabled_request_misses_nothing(ground: Ground):
    watch(ground, "watching", "app.orders")
    ground.app.run("ALTER TABLE app.orders DISABLE TRIGGER changefeed_request")
    look(ground)
    assert ground.root.run("SELECT is_complete FROM changefeed.status()") == [(True,)]
    assert ground.root.run(load_queries("doctor.sql")["disabled triggers"]) == []
    assert watch(ground, "watching", "app.orders", "row_limit => 10")
    assert look(ground) == {}
