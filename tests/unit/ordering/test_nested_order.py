"""The journal's reader where triggers wrote: pages, cursors and contents, through changefeed.journal itself."""

import asyncio
import json
from typing import Any

import pytest
from tornado.testing import ExpectLog

from changefeed.change.change import Change
from changefeed.change.exposure import Payload
from changefeed.journal import entries
from changefeed.journal.cursor import Place
from changefeed.journal.journal import BEGINNING, Journal
from changefeed.ordering import digests, earlier_states, nested_order
from changefeed.postgres.pool import DeadlinePassed
from tests.journal_database import JournalDatabase

COOK = """CREATE FUNCTION cook() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.status = 'raw' THEN UPDATE orders SET status = 'cooked' WHERE id = NEW.id; END IF; RETURN NULL; END $$;
    CREATE TRIGGER cook AFTER INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION cook()"""


@pytest.fixture(autouse=True)
def orders(db: JournalDatabase) -> None:
    db.run("CREATE TABLE orders (id int PRIMARY KEY, status text, note text); SELECT changefeed.watch('orders')")
    db.run(COOK)


async def opened(db: JournalDatabase, payload: Payload = Payload.FULL) -> Journal:
    journal = Journal(db, payload)
    assert await journal.identify()
    return journal


async def all_after(journal: Journal, place: Place, pages: list[int] | None = None) -> list[Change]:
    changes: list[Change] = []
    while True:
        page = await journal.read(place)
        changes += page.changes
        if pages is not None:
            pages.append(len(page.changes))
        place = page.end
        if place.previous == place.batch:
            return changes


def parsed(changes: list[Change]) -> list[tuple[str, int, str]]:
    found = [json.loads(change.text) for change in changes]
    return [(change["action"], change["data"]["id"], change["data"]["status"]) for change in found]


def row_of(change: Change) -> Any:
    return json.loads(change.text)


def of_each_row(count: int) -> list[list[tuple[str, int, str]]]:
    return [[("INSERT", row, "raw"), ("UPDATE", row, "cooked")] for row in range(count)]


def by_row(changes: list[Change], count: int) -> list[list[tuple[str, int, str]]]:
    return [[change for change in parsed(changes) if change[1] == row] for row in range(count)]


@pytest.mark.parametrize("page_rows", [1, 2, 7, 1000])
def test_a_transactions_pages_from_any_place(db: JournalDatabase, page_rows: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(entries, "PAGE_ROWS", page_rows)
    db.run("INSERT INTO orders SELECT i, 'raw' FROM generate_series(0, 9) AS i")

    async def check() -> None:
        journal = await opened(db)
        changes = await all_after(journal, BEGINNING)
        assert by_row(changes, 10) == of_each_row(10)
        assert [change.id for change in changes] == sorted(change.id for change in changes)
        for seen, change in enumerate(changes, 1):
            another = await opened(db)
            place = another.decode(change.cursor or "")
            assert [c.text for c in await all_after(another, place)] == [c.text for c in changes[seen:]]

    asyncio.run(check())


def test_a_page_ends_at_too_many_bytes_of_contents(db: JournalDatabase, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(entries, "PAGE_ROWS", 20)
    monkeypatch.setattr(entries, "PAGE_LIMIT_BYTES", 50_000)
    db.run("INSERT INTO orders SELECT i, 'raw', repeat('x', 10000) FROM generate_series(0, 19) AS i")

    async def check() -> None:
        pages: list[int] = []
        changes = await all_after(await opened(db), BEGINNING, pages)
        assert by_row(changes, 20) == of_each_row(20)
        assert max(pages) < 12

    asyncio.run(check())


@pytest.mark.parametrize(
    ("payload", "data"), [(Payload.KEYS, [{"id": 1}] * 2), (Payload.OFF, [None] * 2)], ids=["keys", "off"]
)
def test_what_of_a_row_may_leave_is_no_matter_to_its_order(db: JournalDatabase, payload: Payload, data: list[Any]):
    db.run("INSERT INTO orders VALUES (1, 'raw')")

    async def check() -> None:
        changes = [json.loads(change.text) for change in await all_after(await opened(db, payload), BEGINNING)]
        assert [change["action"] for change in changes] == ["INSERT", "UPDATE"]
        assert [change["data"] for change in changes] == data

    asyncio.run(check())


def test_an_order_is_worked_out_once(db: JournalDatabase, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(entries, "PAGE_ROWS", 5)
    monkeypatch.setattr(digests, "STATES_AT_ONCE", 7)
    monkeypatch.setattr(nested_order, "INLINE_ENTRIES", 10)
    monkeypatch.setattr(earlier_states, "INLINE_ENTRIES", 10)
    db.run("INSERT INTO orders SELECT i, 'raw' FROM generate_series(0, 20) AS i")
    asked: list[str] = []
    fetch = db.fetch

    async def counting(query: str, *args: Any, **options: Any) -> Any:
        asked.append(query)
        await asyncio.sleep(0)
        return await fetch(query, *args, **options)

    monkeypatch.setattr(db, "fetch", counting)

    async def check() -> None:
        journal = await opened(db)
        for changes in await asyncio.gather(*(all_after(journal, BEGINNING) for _ in range(3))):
            assert by_row(changes, 21) == of_each_row(21)
        assert asked.count(digests.QUERIES["states"]) == 42 // 7 + 1

    asyncio.run(check())


def test_what_retention_takes_meanwhile_ends_nothing(db: JournalDatabase, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(entries, "PAGE_ROWS", 2)
    db.run("INSERT INTO orders SELECT i, 'raw' FROM generate_series(0, 3) AS i")

    async def check() -> None:
        journal = await opened(db)
        page = await journal.read(BEGINNING)
        db.run("DELETE FROM changefeed.journal WHERE id IN (SELECT id FROM changefeed.journal ORDER BY id LIMIT 3)")
        assert len(await all_after(journal, page.end)) == 5

    asyncio.run(check())


def test_many_transactions_on_a_page_are_asked_for_at_once(db: JournalDatabase, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nested_order, "REMEMBERED_ORDERS", 3)
    monkeypatch.setattr(digests, "STATES_AT_ONCE", 7)
    for row in range(30):
        db.run("INSERT INTO orders VALUES (%s, 'raw')", row)

    async def check() -> None:
        changes = await all_after(await opened(db), BEGINNING)
        assert by_row(changes, 30) == of_each_row(30)

    asyncio.run(check())


def test_a_transaction_with_trigger_writes_on_another_page(db: JournalDatabase, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(entries, "PAGE_ROWS", 2)
    db.run("BEGIN; INSERT INTO orders VALUES (0, 'x'), (1, 'x'), (2, 'x'), (3, 'x')")
    db.run("UPDATE orders SET status = 'raw' WHERE id = 3; UPDATE orders SET status = 'done'; COMMIT")

    async def check() -> None:
        changes = await all_after(await opened(db), BEGINNING)
        assert [status for _, row, status in parsed(changes) if row == 3] == ["x", "raw", "cooked", "done"]

    asyncio.run(check())


@pytest.mark.parametrize("payload", [Payload.FULL, Payload.OFF])
def test_a_statement_with_calls_on_two_pages(db: JournalDatabase, payload: Payload, monkeypatch: pytest.MonkeyPatch):
    """On each page alone rows only come, or only go."""
    monkeypatch.setattr(entries, "PAGE_ROWS", 1)
    db.run("INSERT INTO orders VALUES (4, 'x')")
    db.run("WITH gone AS (DELETE FROM orders RETURNING id) INSERT INTO orders SELECT id, 'y' FROM gone LIMIT 1")

    async def check() -> None:
        changes = await all_after(await opened(db, payload), BEGINNING)
        assert [json.loads(change.text)["action"] for change in changes] == ["INSERT", "DELETE", "INSERT"]

    asyncio.run(check())


def test_a_trigger_function_is_read_once_from_its_beginning(db: JournalDatabase):
    name = "b" + 62 * "a"  # which takes longest to be searched for in what follows
    db.run(f"CREATE TABLE {name} (id int) PARTITION BY LIST (id)")
    for number in range(40):
        db.run(f"CREATE TABLE part_{number} PARTITION OF {name} FOR VALUES IN ({number})")
    db.run("""DO $do$ BEGIN
        EXECUTE format('CREATE FUNCTION long() RETURNS trigger LANGUAGE plpgsql AS %L',
            'BEGIN IF NEW.id = 0 THEN INSERT INTO orders VALUES (1); END IF; RETURN NULL; END --' || repeat('a', 20000000));
    END $do$""")
    db.run(f"CREATE TRIGGER long AFTER INSERT ON {name} FOR EACH ROW EXECUTE FUNCTION long()")
    db.run(f"SELECT changefeed.watch('{name}'); INSERT INTO {name} VALUES (0); SET statement_timeout = '10s'")

    async def read() -> list[Change]:
        return await all_after(await opened(db), BEGINNING)

    assert {change.table for change in asyncio.run(read())} == {"public.orders", f"public.{name}"}


def test_a_large_transaction_is_read_a_piece_at_a_time_and_once(db: JournalDatabase, monkeypatch: pytest.MonkeyPatch):
    rows = 4_000
    monkeypatch.setattr(digests, "STATES_AT_ONCE", rows // 10)
    db.run(f"INSERT INTO orders SELECT i, 'raw' FROM generate_series(1, {rows}) AS i")
    journal = asyncio.run(opened(db))
    db.run("BEGIN")
    asyncio.run(journal.read(BEGINNING))
    [(read,)] = db.run(
        "SELECT sum(seq_tup_read + idx_tup_fetch)::bigint FROM pg_stat_xact_user_tables "
        "WHERE schemaname = 'changefeed' AND relname LIKE 'journal\\__'"
    )
    entries = 2 * rows
    assert (
        entries < read < 4 * entries
    )  # once for the page, once for the order; for each piece again it would be ten times


DEEP = "DO $$ DECLARE v json := '1'; BEGIN FOR i IN 1..40000 LOOP v := json_build_array(v); END LOOP; {} END $$"


@pytest.fixture
def docs(db: JournalDatabase) -> None:
    """A table whose values nobody but their writer may have looked at: PostgreSQL makes them, and cannot parse them."""
    db.run("CREATE TABLE docs (id int PRIMARY KEY, value json); SELECT changefeed.watch('docs')")


@pytest.mark.parametrize("page_rows", [1, 2, 1000])
def test_an_unparsable_value_affects_no_other_tables_order(
    db: JournalDatabase, docs: None, page_rows: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(entries, "PAGE_ROWS", page_rows)
    db.run("INSERT INTO orders VALUES (0, 'raw')")
    db.run("BEGIN; INSERT INTO docs VALUES (1, NULL), (2, NULL)")
    db.run(DEEP.format("UPDATE docs SET value = v WHERE id = 1;"))
    db.run("INSERT INTO orders VALUES (1, 'raw'); COMMIT; INSERT INTO orders VALUES (2, 'raw')")

    async def check() -> None:
        found = await all_after(await opened(db), BEGINNING)
        assert by_row([change for change in found if change.table == "public.orders"], 3) == of_each_row(3)

    with ExpectLog("changefeed.journal", "could not look into 1 entries"):
        asyncio.run(check())


def test_it_is_looked_for_once(db: JournalDatabase, docs: None):
    db.run("BEGIN; INSERT INTO docs VALUES (1, NULL)")
    db.run(DEEP.format("UPDATE docs SET value = v;"))
    db.run("INSERT INTO orders VALUES (0, 'raw'); COMMIT; INSERT INTO orders VALUES (1, 'raw')")

    async def check() -> None:
        journal = await opened(db)
        with ExpectLog("changefeed.journal", "could not look into 1 entries"):
            await all_after(journal, BEGINNING)
        db.run("INSERT INTO orders VALUES (2, 'raw')")
        await all_after(journal, BEGINNING)

    asyncio.run(check())


def test_however_many_there_are(db: JournalDatabase, docs: None):
    db.run("BEGIN; INSERT INTO docs VALUES (0, NULL)")
    db.run(DEEP.format("UPDATE docs SET value = v; INSERT INTO docs SELECT n, v FROM generate_series(1, 1200) AS n;"))
    db.run("DELETE FROM docs WHERE id = 0; INSERT INTO orders VALUES (0, 'raw'); COMMIT")

    async def check() -> None:
        found = await all_after(await opened(db), BEGINNING)
        assert by_row([change for change in found if change.table == "public.orders"], 1) == of_each_row(1)

    with ExpectLog("changefeed.journal", "could not look into 1202 entries"):
        asyncio.run(check())


LARGE = "SELECT n, to_json(repeat('x', 50000)) FROM generate_series(1, 40) AS n"


@pytest.mark.parametrize("states_at_once", [7, 2_000])
@pytest.mark.parametrize("limit_bytes", [1, 120_000, 16 << 20])
def test_of_a_transaction_s_large_rows_only_the_first_are_examined(
    db: JournalDatabase, docs: None, states_at_once: int, limit_bytes: int, monkeypatch: pytest.MonkeyPatch
):
    """However the entries are divided among statements, so that every server computes the same order."""
    monkeypatch.setattr(digests, "STATES_AT_ONCE", states_at_once)
    monkeypatch.setattr(digests, "STATES_LIMIT_BYTES", limit_bytes)
    monkeypatch.setattr(digests, "LARGE_ROWS_LIMIT_BYTES", 520_000)
    db.run("INSERT INTO orders VALUES (0, 'raw')")
    db.run(
        f"BEGIN; INSERT INTO docs {LARGE}; DELETE FROM docs WHERE id = 40; INSERT INTO orders VALUES (1, 'raw'); COMMIT"
    )

    async def check() -> None:
        found = await all_after(await opened(db), BEGINNING)
        assert by_row([change for change in found if change.table == "public.orders"], 2) == of_each_row(2)
        docs = [json.loads(change.text) for change in found if change.table == "public.docs"]
        recorded = [("INSERT", row) for row in range(1, 41)] + [("DELETE", 40)]
        assert [(change["action"], change["data"]["id"]) for change in docs] == recorded

    with ExpectLog("changefeed.journal", "could not look into 31 entries of the journal, the first of which is 13;"):
        asyncio.run(check())


def test_a_statement_examines_rows_up_to_a_number_of_bytes(
    db: JournalDatabase, docs: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(digests, "STATES_LIMIT_BYTES", 190_000)
    db.run(f"BEGIN; INSERT INTO docs {LARGE}; DELETE FROM docs WHERE id = 40; COMMIT")
    asked: list[str] = []
    fetch = db.fetch

    async def counting(query: str, *args: Any, **options: Any) -> Any:
        asked.append(query)
        return await fetch(query, *args, **options)

    monkeypatch.setattr(db, "fetch", counting)

    async def check() -> None:
        assert len(await all_after(await opened(db), BEGINNING)) == 41

    asyncio.run(check())
    assert asked.count(digests.QUERIES["states"]) == 11  # of four entries each, the last of one


def test_statements_that_take_too_long_are_divided_and_none_is_run_again(
    db: JournalDatabase, docs: None, monkeypatch: pytest.MonkeyPatch
):
    """As if PostgreSQL took too long for more than 10 entries, and for one of them in any case."""
    db.run(
        f"BEGIN; INSERT INTO docs {LARGE}; DELETE FROM docs WHERE id = 40; INSERT INTO orders VALUES (0, 'raw'); COMMIT"
    )
    late: list[tuple[str, str]] = []
    fetch = db.fetch

    async def slow(query: str, parameters: Any = (), *args: Any, **options: Any) -> Any:
        rows = await fetch(query, parameters, *args, **options)
        is_states = query == digests.QUERIES["states"] and parameters.get("opaque", []) is not None
        ids = {row[4] for row in rows if row[2]} - set(parameters["opaque"]) if is_states else set()
        if query == digests.QUERIES["opaque"]:
            ids = set(parameters["ids"])
        if len(ids) > 10 or (is_states and 20 in ids):
            late.append((query, repr(parameters)))
            raise DeadlinePassed("PostgreSQL did not answer within 60 s")
        return rows

    monkeypatch.setattr(db, "fetch", slow)

    async def check() -> None:
        found = await all_after(await opened(db), BEGINNING)
        assert by_row([change for change in found if change.table == "public.orders"], 1) == of_each_row(1)
        assert len(found) == 43

    with ExpectLog("changefeed.journal", "could not look into 1 entries of the journal, the first of which is 20;"):
        asyncio.run(check())
    assert len(set(late)) == len(late)


@pytest.mark.parametrize("names_t", [False, True])
def test_the_order_of_a_row_whose_history_retention_deleted(db: JournalDatabase, names_t: bool):
    """The triggers decide. A client that was sent a part of the transaction in the earlier order gets a gap."""
    db.run("CREATE TABLE t (id int PRIMARY KEY); SELECT changefeed.watch('t')")
    db.run(
        "CREATE FUNCTION free() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM t WHERE id = NEW.id; RETURN NEW; END $$"
    )
    db.run("CREATE TRIGGER free BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION free()")
    if names_t:  # so that by the triggers the statement comes first
        db.run(
            "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM FROM t; RETURN NULL; END $$"
        )
        db.run("CREATE TRIGGER look AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION look()")
    inserting = "INSERT INTO t SELECT generate_series(1, 5)"
    db.run(inserting)
    db.run("SELECT changefeed.retain('1 day', 1000)")  # from now on it writes another partition
    db.run(inserting)

    async def check() -> None:
        before = (await all_after(await opened(db), BEGINNING))[5:]
        rows: set[int] = {1, 2, 3, 4, 5}
        for found in map(row_of, before):
            assert (found["data"]["id"] in rows) == (found["action"] == "DELETE")
            rows ^= {found["data"]["id"]}
        db.run("SELECT changefeed.retain('0 s', 1000000)")
        anew = await opened(db)
        after = [(row["action"], row["data"]["id"]) for row in map(row_of, await all_after(anew, BEGINNING))]
        assert (after == [(row["action"], row["data"]["id"]) for row in map(row_of, before)]) == (not names_t)
        for seen, change in enumerate(before, 1):
            place = anew.decode(change.cursor or "")
            assert anew.has_gap_after(place) == (seen < len(before))

    asyncio.run(check())


def test_no_order_is_unsure_in_a_young_journal_of_which_nothing_is_deleted(db: JournalDatabase):
    db.run(
        "INSERT INTO orders VALUES (1, 'raw'); DELETE FROM orders"
    )  # the row ends as it began, and was not there before

    async def check() -> None:
        journal = await opened(db)
        changes = await all_after(journal, BEGINNING)
        assert [action for action, *_ in parsed(changes)] == ["INSERT", "UPDATE", "DELETE"]
        assert not any(journal.has_gap_after(journal.decode(change.cursor or "")) for change in changes)

    asyncio.run(check())
