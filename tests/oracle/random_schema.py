"""A seed in, tables with triggers and foreign keys and the transactions that write them out. Knows no database.

A row that ends a transaction as it began it is told by its table's triggers, which is sure for a table that has BEFORE or
AFTER triggers only (docs/database.md, "The order of one row"). So tables with both give each row that is written a value of its own.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

KEYS = 6
WRITTEN_LIMIT = 150  # by the triggers of a transaction
ACTIONS = ("CASCADE", "SET NULL", "SET DEFAULT", "NO ACTION", "RESTRICT")
# Which columns every row has; ALTER TABLE adds others in between.
COLUMNS = ("id", "n", "a", "b")


@dataclass
class Table:
    """`a` and `b` refer to the table named in `parents`, where there is one."""

    name: str
    kind: str  # plain, heap (no key), list or hash (partitioned), parent or child (inheritance)
    parents: dict[str, str] = field(default_factory=dict)
    before: set[str] = field(default_factory=set)  # the statements that have triggers of that kind
    after: set[str] = field(default_factory=set)

    @property
    def has_key(self) -> bool:
        return self.kind != "heap"

    @property
    def may_repeat_states(self) -> bool:
        return not (self.before and self.after)


class RandomSchema:
    """definition() is to be run once, then each of transactions()."""

    def __init__(self, seed: str) -> None:
        self.draw = random.Random(seed)
        kinds = self.draw.choices(
            ["plain", "heap", "list", "hash", "parent"], [6, 2, 1, 1, 1], k=self.draw.randrange(1, 5)
        )
        self.tables = [Table(f"t{number}", kind) for number, kind in enumerate(kinds)]
        for table in list(self.tables):
            if table.kind == "parent":
                self.tables.append(Table(f"{table.name}_child", "child"))
        self._triggers = 0
        self._added = 0

    def definition(self) -> Iterator[str]:
        yield "CREATE SEQUENCE stamp START 1000"
        # Triggers that set each other off for ever, as deferred ones may at COMMIT, where no timeout ends them.
        yield "CREATE SEQUENCE written"
        for table in self.tables:
            yield from self._create(table)
        for table in self.tables:
            yield from self._foreign_keys(table)
        for _ in range(self.draw.choice((0, 1, 1, 2, 2, 3, 4, 5))):
            yield self._trigger()
        for table in self.tables:
            yield f"SELECT changefeed.watch('{table.name}')"

    def transactions(self, count: int, *, has_merge: bool) -> Iterator[list[str]]:
        """Statements each; one that fails is to be undone alone, by a savepoint."""
        for _ in range(count):
            statements = [self._statement(has_merge=has_merge) for _ in range(self.draw.choice((1, 1, 2, 3, 5)))]
            if self.draw.random() < 0.06:
                statements.insert(self.draw.randrange(len(statements) + 1), self._ddl())
            yield statements

    def _create(self, table: Table) -> Iterator[str]:
        draw = self.draw
        columns = f"id int NOT NULL DEFAULT {draw.randrange(KEYS)}, n int DEFAULT 0, a int DEFAULT 1, b int"
        match table.kind:
            case "plain":
                yield f"CREATE TABLE {table.name} ({columns}, PRIMARY KEY (id))"
            case "heap":
                yield f"CREATE TABLE {table.name} ({columns})"
            case "list" | "hash":
                yield f"CREATE TABLE {table.name} ({columns}, PRIMARY KEY (id)) PARTITION BY {table.kind} (id)"
                if table.kind == "hash":
                    for part in range(2):
                        yield (
                            f"CREATE TABLE {table.name}_{part} PARTITION OF {table.name} "
                            f"FOR VALUES WITH (MODULUS 2, REMAINDER {part})"
                        )
                else:
                    yield f"CREATE TABLE {table.name}_0 PARTITION OF {table.name} FOR VALUES IN (0, 1, 2)"
                    yield f"CREATE TABLE {table.name}_1 PARTITION OF {table.name} DEFAULT"
            case "parent":
                yield f"CREATE TABLE {table.name} ({columns}, PRIMARY KEY (id))"
            case "child":
                yield f"CREATE TABLE {table.name} (PRIMARY KEY (id)) INHERITS ({table.name.removesuffix('_child')})"

    def _foreign_keys(self, table: Table) -> Iterator[str]:
        draw = self.draw
        keyed = [other for other in self.tables if other.has_key]
        for column in ("a", "b"):
            if keyed and draw.random() < 0.45:
                target = draw.choice([*keyed, *(table for _ in range(2) if table.has_key)])
                table.parents[column] = target.name
                deferred = draw.choice(("", "", " DEFERRABLE INITIALLY DEFERRED"))
                yield (
                    f"ALTER TABLE {table.name} ADD FOREIGN KEY ({column}) REFERENCES {target.name} "
                    f"ON DELETE {draw.choice(ACTIONS)} ON UPDATE {draw.choice(ACTIONS)}{deferred}"
                )

    def _trigger(self) -> str:
        draw = self.draw
        table = draw.choice([table for table in self.tables if table.kind != "child"])
        moment, level = draw.choice(("BEFORE", "AFTER", "AFTER")), draw.choice(("ROW", "ROW", "STATEMENT"))
        events = draw.sample(("INSERT", "UPDATE", "DELETE"), draw.choice((1, 1, 2)))
        (table.before if moment == "BEFORE" else table.after).update(events)
        self._triggers += 1
        name = f"{draw.choice(('aaa', 'zzz'))}_{self._triggers}"
        row = "coalesce(NEW.id, OLD.id)" if level == "ROW" else str(draw.randrange(KEYS))
        target = table if draw.random() < 0.6 else draw.choice(self.tables)
        body = self._nested_write(target, row)
        if draw.random() < 0.3:
            body += "; " + self._nested_write(draw.choice(self.tables), row)
        condition = f"pg_trigger_depth() <= {draw.randrange(1, 5)} AND nextval('written') < {WRITTEN_LIMIT}"
        if level == "ROW" and draw.random() < 0.4:
            condition += f" AND coalesce(NEW.n, OLD.n) % {draw.randrange(2, 4)} = 0"
        result = "NULL"
        if moment == "BEFORE" and level == "ROW":
            result = "coalesce(NEW, OLD)"
            if events == ["INSERT"] and draw.random() < 0.3:
                body += "; NEW.b := NULL"
            elif draw.random() < 0.15:
                body += f"; IF {row} = {draw.randrange(KEYS)} THEN RETURN NULL; END IF"
        kind, when = "TRIGGER", f"FOR EACH {level}"
        if moment == "AFTER" and level == "ROW" and draw.random() < 0.15 and table.kind != "list":
            kind, when = "CONSTRAINT TRIGGER", "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
        return (
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF {condition} THEN {body}; END IF; RETURN {result}; END $$; "
            f"CREATE {kind} {name} {moment} {' OR '.join(events)} ON {table.name} {when} EXECUTE FUNCTION {name}()"
        )

    def _nested_write(self, table: Table, row: str) -> str:
        draw = self.draw
        other = draw.choice((row, row, f"({row} + 1) % {KEYS}", str(draw.randrange(KEYS))))
        return draw.choice(
            (
                f"UPDATE {table.name} SET n = {self._number(table, 'n + 1')} WHERE id = {other}",
                f"UPDATE {table.name} SET n = {self._number(table, '(n + 1) % 3')} WHERE id = {other}",
                f"UPDATE {table.name} SET n = {self._number(table, 'n')}, b = NULL WHERE id = {other}",
                f"DELETE FROM {table.name} WHERE id = {other}",
                f"DELETE FROM {table.name} WHERE id = {other} AND n % 2 = 0",
                self._insert(table, f"({other}, {self._number(table, str(draw.randrange(3)))}, NULL, NULL)"),
            )
        )

    def _number(self, table: Table, expression: str) -> str:
        # Another trigger may yet come and give the table both kinds: asked for when the function runs.
        return f"CASE WHEN is_stamped('{table.name}') THEN nextval('stamp')::int ELSE {expression} END"

    def _insert(self, table: Table, *rows: str) -> str:
        conflict = ""
        if table.has_key:
            conflict = " ON CONFLICT DO NOTHING"
            if table.kind != "parent" and self.draw.random() < 0.5:
                conflict = " ON CONFLICT (id) DO UPDATE SET n = excluded.n"
        return f"INSERT INTO {table.name} (id, n, a, b) VALUES {', '.join(rows)}{conflict}"

    def stamps(self) -> str:
        """Which tables give each row that is written a value of its own; to be run after the definition's triggers."""
        names = ", ".join(f"'{table.name}'" for table in self.tables if not table.may_repeat_states) or "''"
        return (
            "CREATE OR REPLACE FUNCTION is_stamped(name text) RETURNS boolean LANGUAGE sql AS "
            f"$$ SELECT name IN ({names}) $$"
        )

    def _statement(self, *, has_merge: bool) -> str:
        draw = self.draw
        table = draw.choice(self.tables)
        name, low = table.name, draw.randrange(KEYS)
        high = low + draw.choice((0, 0, 1, 3, KEYS))
        rows = [self._row(table, (low + offset) % KEYS) for offset in range(draw.randrange(1, 4))]
        matching = f"WHERE id BETWEEN {low} AND {high}"
        choices = [
            *[self._insert(table, *rows)] * 4,
            f"INSERT INTO {name} (id, n, a, b) VALUES {rows[0]}",
            *[f"UPDATE {name} SET n = {self._number(table, 'n + 1')} {matching}"] * 2,
            f"UPDATE {name} SET n = {self._number(table, str(draw.randrange(3)))}, a = {self._reference()} {matching}",
            f"UPDATE {name} SET n = {self._number(table, 'n')} {matching}",
            f"UPDATE {name} SET id = {draw.randrange(KEYS)}, n = {self._number(table, 'n')} WHERE id = {low}",
            f"UPDATE {name} SET id = {KEYS} - id, n = {self._number(table, 'n')} {matching}",
            *[f"DELETE FROM {name} {matching}"] * 3,
            f"DELETE FROM {name} WHERE n % 2 = {draw.randrange(2)}",
        ]
        if draw.random() < 0.1:
            choices = [f"TRUNCATE {name} CASCADE"]
        elif draw.random() < 0.15:
            other = draw.choice(self.tables)
            choices = [
                f"WITH gone AS (DELETE FROM {name} {matching} RETURNING id, n) "
                f"INSERT INTO {other.name} (id, n, b) SELECT id, {self._number(other, 'n')}, {self._reference()} FROM gone"
                + (" ON CONFLICT DO NOTHING" if other.has_key else ""),
                f"WITH more AS ({self._insert(other, self._row(other, low))}) "
                f"UPDATE {name} SET n = {self._number(table, 'n + 1')} {matching}",
            ]
        elif has_merge and table.kind in ("plain", "heap") and draw.random() < 0.15:
            choices = [
                f"MERGE INTO {name} AS t USING generate_series({low}, {high}) AS v (id) ON t.id = v.id "
                "WHEN MATCHED AND v.id % 3 = 0 THEN DELETE "
                f"WHEN MATCHED THEN UPDATE SET n = {self._number(table, 't.n + 1')} "
                f"WHEN NOT MATCHED THEN INSERT (id, n, b) VALUES (v.id, {self._number(table, '0')}, {self._reference()})"
            ]
        return draw.choice(choices)

    def _row(self, table: Table, key: int) -> str:
        number = self._number(table, str(self.draw.randrange(3)))
        return f"({key}, {number}, {self._reference()}, {self._reference()})"

    def _reference(self) -> str:
        return self.draw.choice(("NULL", "NULL", *map(str, range(KEYS))))

    def _ddl(self) -> str:
        table = self.draw.choice([table for table in self.tables if table.kind != "child"])
        self._added += 1
        return self.draw.choice(
            (
                f"ALTER TABLE {table.name} ADD COLUMN extra_{self._added} int DEFAULT {self._added}",
                f"ALTER TABLE {table.name} ADD COLUMN extra_{self._added} text",
                f"ALTER TABLE {table.name} ALTER COLUMN n TYPE bigint",
                f"ALTER TABLE {table.name} ALTER COLUMN n TYPE int",
                f"CREATE INDEX ON {table.name} (n)",
            )
        )
