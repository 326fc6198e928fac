"""A column that must not leave its table does not leave it under another name, even if another column has its name now."""

import pytest

from changefeed.postgres.named_queries import load_queries, read_script
from tests import postgres
from tests.journal_database import JournalDatabase
from tests.sql.test_install import dump

SECRET = "S3CRET"
RENAMED = "BEGIN; ALTER TABLE {0} RENAME secret TO other; ALTER TABLE {0} ADD secret text; COMMIT"
SWAPPED = (
    "BEGIN; ALTER TABLE {0} RENAME secret TO t; ALTER TABLE {0} RENAME other TO secret; "
    "ALTER TABLE {0} RENAME t TO other; COMMIT"
)
LOSSES = (
    "SELECT (SELECT count(*) FROM changefeed.journal WHERE action = 'L')"
    " + (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM changefeed.losses)"
)
OPTIONS = pytest.mark.parametrize("option", ["omit", "hash"])


def watch(db: JournalDatabase, option: str, table: str = "t", columns: str = "id int, note text, secret text") -> None:
    db.run(f"CREATE TABLE {table} ({columns}); SELECT changefeed.watch('{table}', {option} => '{{secret}}')")


def journal_text(db: JournalDatabase) -> str:
    return str(db.run("SELECT string_agg(j::text, '') FROM changefeed.journal AS j"))


def assert_is_lost(db: JournalDatabase, *statements: str) -> None:
    """Each of the statements is a loss, and what they write is nowhere."""
    db.forget()
    for statement in statements:
        db.run(statement)
    assert (db.entries(), db.losses) == ([], len(statements))
    assert SECRET not in journal_text(db)
    assert "that was to be left out or hashed is gone" in db.warnings[-1]


WRITES = (
    f"INSERT INTO t (id, other) VALUES (1, '{SECRET}')",
    f"UPDATE t SET other = '{SECRET}!'",
    "DELETE FROM t",
)


@OPTIONS
@pytest.mark.parametrize(
    ("columns", "ddl"),
    [
        ("id int, note text, secret text", RENAMED),
        ("id int, other text, secret text", SWAPPED),
        ("id int, other text, secret text", "ALTER TABLE t DROP secret; ALTER TABLE t ADD secret text"),
        ("id int, other text, secret text", "ALTER TABLE t DROP secret; ALTER TABLE t RENAME other TO secret"),
    ],
)
def test_a_name_that_has_passed_to_another_column_hides_nothing(
    option: str, columns: str, ddl: str, db: JournalDatabase
):
    watch(db, option, columns=columns)
    db.run(f"INSERT INTO t (id, secret) VALUES (0, '{SECRET}')")
    assert db.losses == 0
    db.run(ddl.format("t"))
    hidden = "secret" if "DROP" in ddl and "RENAME" in ddl else "other"
    writes = [write.replace("other", hidden) for write in WRITES]
    assert_is_lost(db, *writes)
    db.run("SELECT changefeed.refresh()")
    assert_is_lost(db, *writes)
    assert db.value(f"SELECT changefeed.watch('t', {option} => '{{{hidden}}}')") is True
    assert db.value(f"SELECT changefeed.watch('t', {option} => '{{{hidden}}}')") is False
    db.forget()
    db.run(writes[0])
    assert (len(db.entries()), db.losses) == (1, 0)
    assert SECRET not in journal_text(db)


@OPTIONS
def test_a_name_that_comes_back_later_hides_nothing(option: str, db: JournalDatabase):
    watch(db, option)
    db.run("ALTER TABLE t RENAME secret TO other")
    assert_is_lost(db, *WRITES)
    db.run("SELECT changefeed.refresh(); ALTER TABLE t ADD secret text")
    assert_is_lost(db, *WRITES)


@OPTIONS
def test_a_column_with_its_old_name_again_is_recorded_as_before(option: str, db: JournalDatabase):
    watch(db, option)
    db.run("BEGIN; ALTER TABLE t RENAME secret TO other; ALTER TABLE t RENAME other TO secret; COMMIT")
    db.run("ALTER TABLE t DROP note; ALTER TABLE t ADD more text")
    db.run(f"INSERT INTO t (id, secret) VALUES (1, '{SECRET}')")
    assert (len(db.entries()), db.losses) == (1, 0)
    assert SECRET not in journal_text(db)


@OPTIONS
@pytest.mark.parametrize("strict", [False, True])
def test_a_partition_s_columns_have_numbers_of_their_own(option: str, strict: bool, db: JournalDatabase):
    db.run("CREATE TABLE t (id int, gone int, secret text, note text) PARTITION BY LIST (id); ALTER TABLE t DROP gone")
    db.run("CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)")
    db.run("CREATE TABLE t2 (note text, x int, y int, secret text, id int); ALTER TABLE t2 DROP x, DROP y")
    db.run(f"SELECT changefeed.watch('t', {option} => '{{secret}}', strict => {strict})")
    db.run("ALTER TABLE t ATTACH PARTITION t2 FOR VALUES IN (2); SELECT changefeed.refresh()")
    for write in (
        "INSERT INTO {} VALUES ({}, '{}')",
        "UPDATE {0} SET secret = '{2}' WHERE id = {1}",
        "DELETE FROM {0}",
    ):
        for table in ("t", "t1", "t2"):
            columns = table if "INSERT" not in write else f"{table} (id, secret)"
            db.run(write.format(columns, 2 if table == "t2" else 1, SECRET))
    db.run(f"INSERT INTO t (id, secret) VALUES (1, '{SECRET}'), (2, '{SECRET}'); TRUNCATE t1; TRUNCATE t2")
    assert (db.losses, SECRET in journal_text(db)) == (0, False)
    assert db.value("SELECT is_complete FROM changefeed.status()") is True
    if strict:
        return
    db.run(RENAMED.format("t"))
    for _ in range(2):
        for table, key in (("t", 1), ("t1", 1), ("t2", 2)):
            assert_is_lost(
                db,
                f"INSERT INTO {table} (id, other) VALUES ({key}, '{SECRET}')",
                f"UPDATE {table} SET other = '{SECRET}!' WHERE id = {key}",
                f"TRUNCATE {table}" if table != "t" else "DELETE FROM t",
            )
        db.run("SELECT changefeed.refresh(); ALTER TABLE t DETACH PARTITION t2")
        db.run("SELECT changefeed.refresh(); ALTER TABLE t ATTACH PARTITION t2 FOR VALUES IN (2)")
        db.run("SELECT changefeed.refresh()")


@OPTIONS
def test_a_new_partition_does_not_give_out_what_its_root_keeps_back(option: str, db: JournalDatabase):
    watch(db, option, columns="id int, secret text) PARTITION BY LIST (id")
    db.run(RENAMED.format("t"))
    db.run("CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); SELECT changefeed.refresh()")
    assert_is_lost(db, f"INSERT INTO t1 (id, other) VALUES (1, '{SECRET}')", "TRUNCATE t1")


@OPTIONS
def test_a_child_of_another_table_keeps_back_its_own_column(option: str, db: JournalDatabase):
    db.run("CREATE TABLE parent (id int, gone int, secret text); ALTER TABLE parent DROP gone")
    db.run(f"CREATE TABLE t (note text) INHERITS (parent); SELECT changefeed.watch('t', {option} => '{{secret}}')")
    db.run(f"INSERT INTO t (id, secret) VALUES (1, '{SECRET}'); UPDATE parent SET secret = '{SECRET}!'")
    assert (len(db.entries()), db.losses, SECRET in journal_text(db)) == (2, 0, False)
    db.run(RENAMED.format("parent"))
    assert_is_lost(
        db,
        f"INSERT INTO t (id, other) VALUES (2, '{SECRET}')",
        f"UPDATE parent SET other = '{SECRET}?' WHERE id = 2",
    )


@OPTIONS
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("is_watched_again", [False, True])
def test_an_old_snapshot_hides_no_other_column(option: str, level: str, is_watched_again: bool, db: JournalDatabase):
    watch(db, option)
    writer = db.session()
    writer.run(f"BEGIN ISOLATION LEVEL {level}; SELECT FROM pg_class")
    db.run("BEGIN; ALTER TABLE t DROP note; ALTER TABLE t RENAME secret TO note; ALTER TABLE t ADD secret text; COMMIT")
    if is_watched_again:
        db.run(f"SELECT changefeed.watch('t', {option} => '{{note}}')")
    writer.run(f"INSERT INTO t (id, note) VALUES (1, '{SECRET}'); COMMIT")
    assert (db.entries(), db.losses, SECRET in journal_text(db)) == ([], 1, False)


@OPTIONS
def test_triggers_of_an_earlier_version_get_the_numbers_at_an_install(option: str, db: JournalDatabase):
    watch(db, option)
    watch(db, option, "u")
    before = db.run("SELECT oid FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = 't'::regclass ORDER BY oid")
    db.run("ALTER EVENT TRIGGER changefeed_new_partitions DISABLE")
    for (remake,) in db.run(
        "SELECT replace(regexp_replace(pg_get_triggerdef(oid), ', \"numbers\": {[^}]*}', ''), 'CREATE', 'CREATE OR REPLACE') "
        "FROM pg_trigger WHERE tgrelid IN ('t'::regclass, 'u'::regclass)"
    ):
        db.run(remake)
    assert db.value("SELECT count(*) FROM pg_trigger WHERE encode(tgargs, 'escape') LIKE '%numbers%'") == 0
    db.run(f"INSERT INTO t VALUES (1, 'n', '{SECRET}'); ALTER TABLE u RENAME secret TO other")
    db.run(read_script("install.sql"))
    db.run("SELECT changefeed.refresh()")  # after a change it works on for a moment only
    assert before == db.run(
        "SELECT oid FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = 't'::regclass ORDER BY oid"
    )
    assert db.run("SELECT DISTINCT is_complete FROM changefeed.status()") == [(True,)]
    db.run(f"INSERT INTO t VALUES (2, 'n', '{SECRET}')")
    assert (len(db.entries()), db.losses, SECRET in journal_text(db)) == (2, 0, False)
    db.run(RENAMED.format("t"))
    assert_is_lost(db, *WRITES)
    db.run("ALTER TABLE u ADD secret text")
    assert_is_lost(db, f"INSERT INTO u (id, other) VALUES (1, '{SECRET}')")


@pytest.mark.parametrize("numbers", ["null", "{}", '{"secret": null}', '{"secret": 0}', '{"secret": "3 "}'])
def test_numbers_that_name_no_column_give_out_nothing(numbers: str, db: JournalDatabase):
    watch(db, "omit")
    db.run(
        'CREATE OR REPLACE TRIGGER "~changefeed_insert" AFTER INSERT ON t REFERENCING NEW TABLE AS new_rows '
        "FOR EACH STATEMENT EXECUTE FUNCTION changefeed.record(%s)",
        f'{{"omit": ["secret"], "dynamic": true, "numbers": {numbers}}}',
    )
    db.run(f"INSERT INTO t VALUES (1, 'n', '{SECRET}')")
    assert SECRET not in journal_text(db)


@OPTIONS
@pytest.mark.parametrize("is_partitioned", [False, True])
def test_a_restore_gives_out_no_column_that_was_gone_when_dumped(
    option: str, is_partitioned: bool, db: JournalDatabase
):
    """It gives the columns other numbers, by which another column is taken for the one that is gone."""
    partitions = ") PARTITION BY LIST (id" if is_partitioned else ""
    watch(db, option, columns=f"junk int, more int, id int, secret text{partitions}")
    if is_partitioned:
        db.run("CREATE TABLE t1 PARTITION OF t DEFAULT; SELECT changefeed.refresh()")
    # Without junk and more, the number of `other` becomes 2, and that of the new column 4, as the old one's was.
    db.run("ALTER TABLE t RENAME secret TO other; ALTER TABLE t ADD note text; ALTER TABLE t ADD secret text")
    db.run("SELECT changefeed.refresh(); ALTER TABLE t DROP junk; ALTER TABLE t DROP more")
    target = postgres.new_database()
    postgres.execute(target, dump(db.conninfo))
    for refresh in ("", "SELECT changefeed.refresh()"):
        postgres.execute(target, refresh or read_script("install.sql"))
        [(lost_before,)] = postgres.execute(target, LOSSES)
        for write in WRITES:
            postgres.execute(target, write.replace(" t ", " public.t ").replace("FROM t", "FROM public.t"))
        assert postgres.execute(target, LOSSES) == [(lost_before + 3,)]
        assert not postgres.execute(target, "SELECT FROM changefeed.journal AS j WHERE j::text LIKE '%S3CRET%'")
    assert postgres.execute(target, load_queries("server.sql")["gone columns"]) == [("public", "t", "secret", True)]
    postgres.execute(target, f"SELECT changefeed.watch('public.t', {option} => '{{other}}')")
    assert postgres.execute(target, load_queries("server.sql")["gone columns"]) == []
