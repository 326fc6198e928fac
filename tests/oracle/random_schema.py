"""A seed in, tables with triggers and foreign keys and the transactions that write them out. Knows no database."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

WRITTEN_LIMIT = 150  # by the triggers of a transaction
ACTIONS = ("CASCADE", "SET NULL", "SET DEFAULT", "NO ACTION", "RESTRICT")
# Which columns every row has; ALTER TABLE adds others in between.
COLUMNS = ("id", "n", "a", "b")


@dataclass
class Table:
    """`a` and `b` refer to the table named in `parents`, where there is one."""

    name: str
    kind: str  # plain, numeric (its key), heap (no key), list, hash, range or deep (partitioned), parent or child (inheritance)
    parents: dict[str, str] = field(default_factory=dict)
    generated: str = ""  # STORED or VIRTUAL, where it has the column g
    partitions: list[str] = field(default_factory=list)
    view: str = ""  # of all of it, where it has one
    deferrable: str = ""  # how its primary key is checked, where not at once
    omitted: tuple[str, ...] = ()
    hashed: tuple[str, ...] = ()

    @property
    def has_key(self) -> bool:
        return self.kind != "heap"

    @property
    def can_be_referenced(self) -> bool:
        """By foreign keys, and by ON CONFLICT."""
        return self.has_key and not self.deferrable

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that are sent."""
        columns = (*COLUMNS, "g") if self.generated else COLUMNS
        return tuple(column for column in columns if column not in self.omitted)

    @property
    def watch(self) -> str:
        options = f"omit => '{{{','.join(self.omitted)}}}', hash => '{{{','.join(self.hashed)}}}'"
        return f"SELECT changefeed.watch('{self.name}', {options})"

    @property
    def told(self) -> str:
        """What is sent of each of its rows."""
        columns = (
            f"changefeed.hash('{self.name}', '{column}', {column}::text) AS {column}"
            if column in self.hashed
            else column
            for column in self.columns
        )
        only = "ONLY " if self.kind == "parent" else ""
        return f"SELECT to_json(t) FROM (SELECT {', '.join(columns)} FROM {only}{self.name}) AS t"


class RandomSchema:
    """definition() and rows_before() are to be run once; then, once the tables are watched, each of transactions()."""

    def __init__(self, seed: str, postgres_version: int) -> None:
        self.draw = random.Random(seed)
        self._version = postgres_version
        self.keys = self.draw.choice((3, 6))
        kinds = self.draw.choices(
            ["plain", "numeric", "heap", "list", "hash", "range", "deep", "parent"],
            [6, 1, 2, 1, 1, 1, 1, 1],
            k=self.draw.randrange(1, 5),
        )
        self.tables = [Table(f"t{number}", kind) for number, kind in enumerate(kinds)]
        for table in list(self.tables):
            if table.kind == "parent":
                self.tables.append(Table(f"{table.name}_child", "child"))
        for table in self.tables:
            if self.draw.random() < 0.1:
                table.omitted = self.draw.choice((("b",), ("a", "b")))
            if self.draw.random() < 0.1:
                table.hashed = self.draw.choice((("n",), ("n", "a")))
            table.hashed = tuple(column for column in table.hashed if column not in table.omitted)
            if table.has_key and self.draw.random() < 0.15:
                table.deferrable = self.draw.choice((" DEFERRABLE", " DEFERRABLE INITIALLY DEFERRED"))
        self.is_plain = self.draw.random() < 0.15  # only statements write
        self._triggers = 0
        self._added = 0
        self.merged: set[str] = set()  # the partitioned tables of which a MERGE may be told as a gap

    def definition(self) -> Iterator[str]:
        # Triggers that set each other off for ever, as deferred ones may at COMMIT, where no timeout ends them.
        yield "CREATE SEQUENCE written"
        for table in self.tables:
            yield from self._create(table)
            if table.view:
                yield f"CREATE VIEW {table.view} AS SELECT * FROM {table.name}"
        if self.is_plain:
            return
        for table in self.tables:
            yield from self._foreign_keys(table)
        if self.draw.random() < 0.1:
            yield self._rule()
        for _ in range(self.draw.choice((0, 1, 2, 2, 3, 3, 4, 5, 6))):
            yield self._trigger()

    def rows_before(self) -> Iterator[str]:
        for table in self.tables:
            for key in self.draw.sample(range(self.keys), self.draw.choice((0, 0, 3))):
                yield f"INSERT INTO {table.name} (id, n, a, b) VALUES ({key}, {self.draw.randrange(3)}, NULL, NULL)"

    def end(self) -> str:
        """How a transaction ends: with PREPARE TRANSACTION, others can run before end_of_prepared()."""
        return self.draw.choices(("COMMIT", "ROLLBACK", "PREPARE TRANSACTION 'prepared'"), (17, 2, 1))[0]

    def end_of_prepared(self) -> str:
        return self.draw.choices(("COMMIT PREPARED 'prepared'", "ROLLBACK PREPARED 'prepared'"), (4, 1))[0]

    def transactions(self, count: int) -> Iterator[list[str]]:
        """Statements each; one that fails is to be undone alone, by a savepoint."""
        for _ in range(count):
            statements = [self._statement() for _ in range(self.draw.choice((1, 1, 2, 3, 5)))]
            if self.draw.random() < 0.06:
                statements.insert(self.draw.randrange(len(statements) + 1), self._ddl())
            if self.draw.random() < 0.08:
                statements.append("SET CONSTRAINTS ALL IMMEDIATE")
            yield statements

    def _create(self, table: Table) -> Iterator[str]:
        draw = self.draw
        key_type = "numeric" if table.kind == "numeric" else "int"
        columns = f"id {key_type} NOT NULL DEFAULT {draw.randrange(self.keys)}, n int DEFAULT 0, a int DEFAULT 1, b int"
        if table.kind != "child" and draw.random() < 0.2:
            table.generated = draw.choice(("STORED", "VIRTUAL")) if self._version >= 18 else "STORED"
            columns += f", g int GENERATED ALWAYS AS (n * 2) {table.generated}"
        if draw.random() < 0.2:
            table.view = f"{table.name}_view"
        name, key = table.name, table.deferrable
        match table.kind:
            case "plain" | "numeric":
                yield f"CREATE TABLE {name} ({columns}, PRIMARY KEY (id){draw.choice(('', ' INCLUDE (n)'))}{key})"
            case "heap":
                yield f"CREATE TABLE {name} ({columns})"
            case "parent":
                yield f"CREATE TABLE {name} ({columns}, PRIMARY KEY (id){key})"
            case "child":
                [parent] = [other for other in self.tables if other.name == name.removesuffix("_child")]
                table.generated = parent.generated
                yield f"CREATE TABLE {name} (PRIMARY KEY (id){key}) INHERITS ({parent.name})"
            case _:
                method = "list" if table.kind == "deep" else table.kind
                yield f"CREATE TABLE {name} ({columns}, PRIMARY KEY (id){key}) PARTITION BY {method} (id)"
                yield from self._partitions(table)

    def _partitions(self, table: Table) -> Iterator[str]:
        bounds = {
            "list": ("FOR VALUES IN (0, 1, 2)", "DEFAULT"),
            "deep": ("FOR VALUES IN (0, 1, 2)", "DEFAULT"),
            "range": ("FOR VALUES FROM (0) TO (2)", "FOR VALUES FROM (2) TO (5)"),  # the last is for _ddl()
            "hash": ("FOR VALUES WITH (MODULUS 2, REMAINDER 0)", "FOR VALUES WITH (MODULUS 2, REMAINDER 1)"),
        }
        for number, bound in enumerate(bounds[table.kind]):
            name = f"{table.name}_{number}"
            table.partitions.append(name)
            is_split = table.kind == "deep" and number == 0
            yield f"CREATE TABLE {name} PARTITION OF {table.name} {bound}" + (" PARTITION BY RANGE (id)" * is_split)
            if is_split:
                for part in range(2):
                    table.partitions.append(f"{name}_{part}")
                    limits = ("MINVALUE) TO (1", "1) TO (MAXVALUE")[part]
                    yield f"CREATE TABLE {name}_{part} PARTITION OF {name} FOR VALUES FROM ({limits})"

    def _foreign_keys(self, table: Table) -> Iterator[str]:
        draw = self.draw
        keyed = [other for other in self.tables if other.can_be_referenced]
        for column in ("a", "b"):
            if keyed and draw.random() < 0.45:
                target = draw.choice([*keyed, *(table for _ in range(2) if table.can_be_referenced)])
                table.parents[column] = target.name
                deferred = draw.choice(("", "", " DEFERRABLE INITIALLY DEFERRED"))
                on = draw.choice([table.name] * 3 + table.partitions)
                yield (
                    f"ALTER TABLE {on} ADD CONSTRAINT {column}_key FOREIGN KEY ({column}) REFERENCES {target.name} "
                    f"ON DELETE {draw.choice(ACTIONS)} ON UPDATE {draw.choice(ACTIONS)}{deferred}"
                )

    def _rule(self) -> str:
        table, target = self.draw.choice(self.tables), self.draw.choice(self.tables)
        event = self.draw.choice(("INSERT", "UPDATE", "DELETE"))
        row = "OLD.id" if event == "DELETE" else "NEW.id"
        write = self.draw.choice(
            (
                f"UPDATE {target.name} SET n = n + 1 WHERE id = {row}",
                f"DELETE FROM {target.name} WHERE id = {row} AND n = 1",
                f"INSERT INTO {target.name} (id, n, a, b) VALUES ({row}, 0, NULL, NULL)",
            )
        )
        return f"CREATE RULE also AS ON {event} TO {table.name} DO ALSO {write}"

    def _trigger(self) -> str:
        draw = self.draw
        table = draw.choice(self.tables)
        moment, level = draw.choice(("BEFORE", "AFTER", "AFTER")), draw.choice(("ROW", "ROW", "STATEMENT"))
        on = draw.choice([table.name] * 4 + table.partitions)
        if table.view and draw.random() < 0.3:
            moment, level, on = "INSTEAD OF", "ROW", table.view
        events = draw.sample(("INSERT", "UPDATE", "DELETE"), draw.choice((1, 1, 2)))
        self._triggers += 1
        name = f"{draw.choice(('aaa', 'zzz'))}_{self._triggers}"
        row = "coalesce(NEW.id, OLD.id)" if level == "ROW" else str(draw.randrange(self.keys))
        target = table if draw.random() < 0.6 else draw.choice(self.tables)
        body = self._nested_write(target, row)
        if draw.random() < 0.3:
            body += "; " + self._nested_write(draw.choice(self.tables), row)
        match draw.randrange(8):
            case 0:
                body = f"BEGIN {body}; EXCEPTION WHEN integrity_constraint_violation THEN NULL; END"
            case 1:  # undone
                body += f"; BEGIN {self._nested_write(target, row)}; RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN NULL; END"
            case 2 if level == "STATEMENT":
                body = f"EXECUTE $e$ {body.split(';')[0]} $e$"
        condition = f"pg_trigger_depth() <= {draw.randrange(1, 5)} AND nextval('written') < {WRITTEN_LIMIT}"
        if level == "ROW" and draw.random() < 0.4:
            condition += f" AND coalesce(NEW.n, OLD.n) % {draw.randrange(2, 4)} = 0"
        result = "NULL"
        if moment != "AFTER" and level == "ROW":
            result = "coalesce(NEW, OLD)"
            if events == ["INSERT"] and draw.random() < 0.3:
                body += "; NEW.b := NULL"
            elif draw.random() < 0.15:
                body += f"; IF {row} = {draw.randrange(self.keys)} THEN RETURN NULL; END IF"
        kind, when = "TRIGGER", f"FOR EACH {level}"
        if moment == "AFTER" and level == "ROW" and draw.random() < 0.15:
            kind, when = "CONSTRAINT TRIGGER", "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
        return (
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF {condition} THEN {body}; END IF; RETURN {result}; END $$; "
            f"CREATE {kind} {name} {moment} {' OR '.join(events)} ON {on} {when} EXECUTE FUNCTION {name}()"
        )

    def _nested_write(self, table: Table, row: str) -> str:
        draw = self.draw
        other = draw.choice((row, row, f"({row} + 1) % {self.keys}", str(draw.randrange(self.keys))))
        return draw.choice(
            (
                f"UPDATE {table.name} SET n = n + 1 WHERE id = {other}",
                f"UPDATE {table.name} SET n = (n + 1) % 3 WHERE id = {other}",
                f"UPDATE {table.name} SET n = n, b = NULL WHERE id = {other}",
                f"DELETE FROM {table.name} WHERE id = {other}",
                f"DELETE FROM {table.name} WHERE id = {other} AND n % 2 = 0",
                f"DELETE FROM {table.name} WHERE n = {draw.randrange(3)}",
                f"UPDATE {table.name} SET n = (n + 1) % 3 WHERE n = {draw.randrange(3)}",
                f"UPDATE {table.name} SET id = (id + 1) % {self.keys}, n = 0 WHERE id = {other}",
                self._insert(table, f"({other}, {draw.randrange(3)}, NULL, NULL)"),
            )
        )

    def _insert(self, table: Table, *rows: str) -> str:
        conflict = ""
        if table.can_be_referenced:
            conflict = " ON CONFLICT DO NOTHING"
            if table.kind != "parent" and self.draw.random() < 0.5:
                conflict = " ON CONFLICT (id) DO UPDATE SET n = excluded.n"
        return f"INSERT INTO {table.name} (id, n, a, b) VALUES {', '.join(rows)}{conflict}"

    def _statement(self) -> str:
        draw = self.draw
        table = draw.choice(self.tables)
        low = draw.randrange(self.keys)
        name = draw.choice([table.name] * 6 + [table.view] * bool(table.view) + table.partitions)
        high = low + draw.choice((0, 0, 1, 3, self.keys))
        rows = [self._row(table, (low + offset) % self.keys) for offset in range(draw.randrange(1, 4))]
        matching = f"WHERE id BETWEEN {low} AND {high}"
        other = draw.choice(self.tables)
        choices = [
            *[self._insert(table, *rows)] * 4,
            f"INSERT INTO {name} (id, n, a, b) VALUES {rows[0]}",
            *[f"UPDATE {name} SET n = n + 1 {matching}"] * 2,
            f"UPDATE {name} SET n = {draw.randrange(3)}, a = {self._reference()} {matching}",
            f"UPDATE {name} SET n = n {matching}",
            f"UPDATE {name} SET id = {draw.randrange(self.keys)}, n = n WHERE id = {low}",
            f"UPDATE {name} SET id = {self.keys} - id, n = n {matching}",
            f"UPDATE {name} AS t SET n = o.n FROM {other.name} AS o WHERE o.id = t.id",
            *[f"DELETE FROM {name} {matching}"] * 3,
            f"DELETE FROM {name} WHERE n % 2 = {draw.randrange(2)}",
            f"DELETE FROM {name} AS t USING {other.name} AS o WHERE o.id = t.id AND o.n = t.n",
            f"DO $$ BEGIN {self._insert(table, *rows)}; DELETE FROM {name} {matching}; {self._insert(other, self._row(other, low))}; END $$",
        ]
        if draw.random() < 0.1:
            choices = [f"TRUNCATE {draw.choice([table.name, *table.partitions])} CASCADE"]
        elif draw.random() < 0.15:
            choices = [
                f"WITH gone AS (DELETE FROM {name} {matching} RETURNING id, n) "
                f"INSERT INTO {other.name} (id, n, b) SELECT id, n, {self._reference()} FROM gone"
                + (" ON CONFLICT DO NOTHING" if other.can_be_referenced else ""),
                # Not read to its end.
                f"WITH gone AS (DELETE FROM {name} {matching} RETURNING id, n) "
                f"INSERT INTO {table.name} (id, n, b) SELECT id, n + {draw.randrange(2)}, NULL FROM gone LIMIT 1",
                f"WITH moved AS (UPDATE {name} SET id = id + {self.keys} {matching} RETURNING id, n) "
                f"INSERT INTO {table.name} (id, n, b) SELECT id - {self.keys}, n + 1, NULL FROM moved LIMIT 1",
                f"WITH more AS ({self._insert(other, self._row(other, low))}) UPDATE {name} SET n = n + 1 {matching}",
                f"WITH more AS ({self._insert(other, self._row(other, low))}), "
                f"less AS (DELETE FROM {other.name} WHERE id = {high}) DELETE FROM {name} {matching}",
            ]
        elif self._version >= 15 and table.kind not in ("parent", "child") and draw.random() < 0.15:
            choices = [self._merge(table, low, high)]
        statement = draw.choice(choices)
        if draw.random() < 0.05:
            statement += f"; SAVEPOINT undone; {draw.choice(choices)}; ROLLBACK TO undone"
        return statement

    def _merge(self, table: Table, low: int, high: int) -> str:
        changed = "n = t.n + 1"
        if table.partitions:
            self.merged.add(table.name)
            changed = self.draw.choice((changed, changed, f"n = t.n + 1, id = {self.keys} - t.id"))
        gone = ""
        if self._version >= 17 and self.draw.random() < 0.3:
            gone = " WHEN NOT MATCHED BY SOURCE AND t.n % 2 = 0 THEN DELETE"
        return (
            f"MERGE INTO {table.name} AS t USING generate_series({low}, {high}) AS v (id) ON t.id = v.id "
            f"WHEN MATCHED AND v.id % 3 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET {changed} "
            f"WHEN NOT MATCHED THEN INSERT (id, n, b) VALUES (v.id, 0, {self._reference()}){gone}"
        )

    def _row(self, table: Table, key: int) -> str:
        text = f"{key}{self.draw.choice(('', '.0', '.00'))}" if table.kind == "numeric" else str(key)
        return f"({text}, {self.draw.randrange(3)}, {self._reference()}, {self._reference()})"

    def _reference(self) -> str:
        return self.draw.choice((*["NULL"] * self.keys, *map(str, range(self.keys))))

    def _ddl(self) -> str:
        table = self.draw.choice([table for table in self.tables if table.kind != "child"])
        self._added += 1
        statements = [
            f"ALTER TABLE {table.name} ADD COLUMN extra_{self._added} int DEFAULT {self._added}",
            f"ALTER TABLE {table.name} ADD COLUMN extra_{self._added} text",
            f"ALTER TABLE {table.name} RENAME COLUMN extra_{self._added - 1} TO extra_{self._added}",
            f"ALTER TABLE {table.name} DROP COLUMN IF EXISTS extra_{self._added - 1}",
            f"ALTER TABLE {table.name} ALTER COLUMN n TYPE bigint",
            f"ALTER TABLE {table.name} ALTER COLUMN n TYPE int",
            f"ALTER TABLE {table.name} REPLICA IDENTITY {self.draw.choice(('FULL', 'NOTHING', 'DEFAULT'))}",
            f"CREATE INDEX ON {table.name} (n)",
            *(
                f"ALTER TABLE {on} DROP CONSTRAINT IF EXISTS {column}_key"
                for on in (table.name, *table.partitions)
                for column in "ab"
            ),
            *([] if self.is_plain else [self._trigger()]),
        ]
        if table.kind == "range":
            statements.append(f"CREATE TABLE {table.name}_2 PARTITION OF {table.name} FOR VALUES FROM (5) TO (7)")
        return self.draw.choice(statements)
