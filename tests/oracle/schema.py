"""The tables that are written and rebuilt, with triggers, partitions and foreign keys of their own."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """`key` is empty where the table has none; `parent` is (column, table, its column) of a foreign key."""

    name: str
    key: tuple[str, ...]
    parent: tuple[str, str, str] | None = None


TABLES = {
    table.name: table
    for table in (
        Table("items", ("id",)),
        Table("nested", ("id",)),
        Table("replaced", ("id",)),
        Table("parts", ("id", "region")),
        Table("parents", ("id",)),
        Table("children", ("id",), ("parent_id", "parents", "id")),
        Table("heap", ()),
        Table('Ödd "näme".x', ("Ke y",)),
        Table("markers", ("token",)),
    )
}
WATCH = ("--watch", "public.*")

DEFINITION = """
CREATE TABLE items (
    id integer PRIMARY KEY, n bigint, word text, amount numeric, tags text[], extra json,
    twice bigint GENERATED ALWAYS AS (n * 2) STORED
);

-- AFTER ROW triggers that write the same row, and rows beside it, of the same table.
CREATE TABLE nested (id integer PRIMARY KEY, n integer, depth integer);
CREATE FUNCTION nest() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.depth > 0 THEN
        UPDATE nested SET depth = NEW.depth - 1 WHERE id = NEW.id;
        IF NEW.n % 3 = 0 THEN
            DELETE FROM nested WHERE id = NEW.id + 1 AND depth = 0;
        ELSIF NEW.n % 3 = 1 THEN
            INSERT INTO nested VALUES (NEW.id + 1, NEW.n, NEW.depth - 1) ON CONFLICT (id) DO UPDATE SET n = excluded.n;
        END IF;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER nest AFTER INSERT OR UPDATE ON nested FOR EACH ROW EXECUTE FUNCTION nest();

-- A BEFORE ROW trigger that makes room for the row that comes.
CREATE TABLE replaced (id integer PRIMARY KEY, n integer);
CREATE FUNCTION make_room() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM replaced WHERE id = NEW.id;
    RETURN NEW;
END $$;
CREATE TRIGGER make_room BEFORE INSERT ON replaced FOR EACH ROW EXECUTE FUNCTION make_room();

CREATE TABLE parts (id integer, region integer, word text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE parts_0 PARTITION OF parts FOR VALUES IN (0);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1, 2) PARTITION BY LIST (region);
CREATE TABLE parts_1_1 PARTITION OF parts_1 FOR VALUES IN (1);
CREATE TABLE parts_1_2 PARTITION OF parts_1 FOR VALUES IN (2);
CREATE TABLE parts_rest PARTITION OF parts DEFAULT;

CREATE TABLE parents (id integer PRIMARY KEY, word text);
CREATE TABLE children (
    id integer PRIMARY KEY, parent_id integer NOT NULL REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE, n integer
);

CREATE TABLE heap (word text, n integer);
CREATE TABLE "Ödd ""näme"".x" ("Ke y" integer PRIMARY KEY, "te""xt" text);
CREATE TABLE markers (token text PRIMARY KEY);
"""
