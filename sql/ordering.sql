-- The statements that put a transaction's entries in order (changefeed/ordering/nested_order.py).

-- states --
-- What the entries of the transactions %(xids)s say about their rows, for the order in which these changed (see
-- changefeed/ordering/transaction_order.py): digests of the column names, and of the row and its primary key before and after.
-- At most %(limit)s entries, transaction by transaction: of the first one those behind the id %(after)s, of all those from
-- %(begin)s on and before %(end)s. The key is the present primary key, if all of it is recorded; the triggers are the present
-- ones too. The rows of the entries %(opaque)s are not examined; if that is null, none are. Nor are rows of more than
-- %(small_bytes)s bytes once such rows of their transaction have %(transaction_limit_bytes)s bytes; those of the first one that
-- precede had %(large_bytes)s. This depends on the transaction alone, so that every server computes the same order.
-- It ends early if the rows to be examined exceed %(limit_bytes)s bytes. `found` is how many entries it would have had else.
-- Of those it returns the entries with ids from %(first)s to %(last)s.
WITH entry AS MATERIALIZED (
    SELECT j.*, asked.number
    FROM unnest(%(xids)s::text[]::xid8[]) WITH ORDINALITY AS asked (xid, number) CROSS JOIN LATERAL (
        SELECT o.id, o.xid, o.at, o.command, o.depth, o.action, o.schema_name, o.table_name, o.data, o.old
        FROM changefeed.entries_of(
            asked.xid, greatest(CASE asked.number WHEN 1 THEN %(after)s ELSE 0 END, %(begin)s - 1), %(end)s, %(limit)s
        ) AS o
    ) AS j
    LIMIT %(limit)s
), measured AS (
    -- octet_length() knows the size of a value without reading it.
    SELECT e.id, e.number, b.bytes, count(*) OVER () AS found,
        (CASE e.number WHEN 1 THEN %(large_bytes)s::bigint ELSE 0 END + sum(CASE WHEN b.bytes > %(small_bytes)s THEN b.bytes ELSE 0 END)
            OVER (PARTITION BY e.number ORDER BY e.id))::bigint AS large_bytes
    FROM entry AS e,
        LATERAL (SELECT coalesce(octet_length(e.data::text), 0)::bigint + coalesce(octet_length(e.old::text), 0)) AS b (bytes)
), chosen AS (
    SELECT m.id, m.found, m.large_bytes, x.is_examined,
        sum(CASE WHEN x.is_examined THEN m.bytes ELSE 0 END)
            OVER (ORDER BY m.number, m.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
    FROM measured AS m,
        LATERAL (SELECT m.bytes <= %(small_bytes)s OR m.large_bytes <= %(transaction_limit_bytes)s) AS x (is_examined)
), named AS MATERIALIZED (
    SELECT t.schema_name, t.table_name, format('%%I.%%I', t.schema_name, t.table_name) AS name,
        key_of_table.names AS key, key_of_table.types AS key_types,
        triggers.is_followed, triggers.is_accompanied
    FROM (SELECT DISTINCT schema_name, table_name FROM entry) AS t
    LEFT JOIN pg_namespace AS n ON n.nspname = t.schema_name
    LEFT JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.table_name, LATERAL (
        SELECT array_agg(a.attname::text ORDER BY a.attnum), array_agg(b.name ORDER BY a.attnum)
        FROM pg_index AS i
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::smallint[])[0:i.indnkeyatts - 1]), LATERAL (
            WITH RECURSIVE base (oid) AS (
                SELECT a.atttypid
                UNION ALL
                SELECT d.typbasetype FROM base AS b JOIN pg_type AS d ON d.oid = b.oid WHERE d.typtype = 'd'
            )
            SELECT CASE WHEN t.typname IN ('numeric', 'float4', 'float8', 'citext', 'bpchar') THEN t.typname::text END
            FROM base AS b JOIN pg_type AS t ON t.oid = b.oid WHERE t.typtype <> 'd'
        ) AS b (name)
        WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate  -- with a deferrable one, two rows may have the same key
    ) AS key_of_table (names, types), LATERAL (
        WITH RECURSIVE ancestor (oid) AS (
            SELECT i.inhparent FROM pg_inherits AS i WHERE i.inhrelid = c.oid
            UNION
            SELECT i.inhparent FROM ancestor AS a JOIN pg_inherits AS i ON i.inhrelid = a.oid
        )
        -- Of any action: an upsert and a MERGE have several. Where only BEFORE triggers name the table itself, what stands
        -- before an entry of it was written before. A statement on a table that it inherits from writes to it too.
        -- Each function's text is searched once, however many partitions have it, and only its beginning.
        SELECT
            coalesce(
                bool_or(t.is_after) AND (bool_or(t.is_after AND f.names_it) OR NOT bool_or(NOT t.is_after AND f.names_it)), false
            ),
            count(*) > 0 OR EXISTS (
                SELECT FROM pg_trigger AS t WHERE t.tgisinternal AND t.tgrelid IN (SELECT m FROM changefeed.members(c.oid) AS m)
            )
        FROM (
            SELECT DISTINCT t.tgtype & 2 = 0 AS is_after, t.tgfoid
            FROM (
                SELECT m, false FROM changefeed.members(c.oid) AS m UNION ALL SELECT a.oid, true FROM ancestor AS a
            ) AS m (member, is_ancestor)
            JOIN pg_trigger AS t ON t.tgrelid = m.member AND (t.tgtype & 1 = 0 OR NOT m.is_ancestor)
            WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'
        ) AS t JOIN pg_proc AS p ON p.oid = t.tgfoid,
            LATERAL (
                SELECT strpos(left(p.prosrc, 100000) COLLATE "C", c.relname::text) > 0 AS names_it OFFSET 0
            ) AS f
        WHERE p.pronamespace <> 'changefeed'::regnamespace
    ) AS triggers (is_followed, is_accompanied)
), whole AS (
    SELECT e.number, e.xid, e.id, e.at, e.command, e.depth, e.action, n.name, n.key, n.key_types,
        n.is_followed, n.is_accompanied, n.key_types = ARRAY[NULL::text] AS has_plain_key,  -- the usual one, of one column: a third of the time
        c.is_examined, c.large_bytes, c.found,
        CASE WHEN c.is_examined AND e.id <> ALL (%(opaque)s::bigint[])
            THEN CASE e.action WHEN 'D' THEN e.data WHEN 'U' THEN e.old END END AS row_before,
        CASE WHEN c.is_examined AND e.id <> ALL (%(opaque)s::bigint[]) AND e.action IN ('I', 'U') THEN e.data END AS row_after
    FROM chosen AS c JOIN entry AS e USING (id) JOIN named AS n USING (schema_name, table_name)
    WHERE coalesce(c.bytes_before, 0) < %(limit_bytes)s AND e.id BETWEEN %(first)s AND %(last)s
)
SELECT w.found, w.large_bytes, w.is_examined, w.xid::text, w.id, (extract(epoch FROM w.at) * 1000000)::bigint, w.action::text, w.depth, w.is_followed,
       w.is_accompanied,
       w.command, w.name,
       (SELECT hashtextextended(string_agg(c.name, ',' ORDER BY c.name), 0)
        FROM json_object_keys(coalesce(w.row_after, w.row_before)) AS c (name)),
       hashtextextended(w.row_before::text, 0), hashtextextended(w.row_after::text, 0),
       CASE WHEN w.has_plain_key THEN hashtextextended((w.row_before -> w.key[1])::text, 0) ELSE
           (SELECT hashtextextended(string_agg(
                CASE WHEN k.type IS NULL THEN (w.row_before -> k.name)::text ELSE changefeed.key_text(w.row_before -> k.name, k.type) END,
                ',' ORDER BY k.number), 0)
            FROM unnest(w.key, w.key_types) WITH ORDINALITY AS k (name, type, number) HAVING bool_and(w.row_before -> k.name IS NOT NULL))
       END,
       CASE WHEN w.has_plain_key THEN hashtextextended((w.row_after -> w.key[1])::text, 0) ELSE
           (SELECT hashtextextended(string_agg(
                CASE WHEN k.type IS NULL THEN (w.row_after -> k.name)::text ELSE changefeed.key_text(w.row_after -> k.name, k.type) END,
                ',' ORDER BY k.number), 0)
            FROM unnest(w.key, w.key_types) WITH ORDINALITY AS k (name, type, number) HAVING bool_and(w.row_after -> k.name IS NOT NULL))
       END
FROM whole AS w
ORDER BY w.number, w.id;

-- opaque --
-- Those of the entries %(ids)s whose rows PostgreSQL cannot parse.
SELECT j.id FROM changefeed.journal AS j
WHERE j.id = ANY (%(ids)s::bigint[]) AND NOT (changefeed.can_be_parsed(j.data) AND changefeed.can_be_parsed(j.old));

-- mixed --
-- Which of the transactions %(xids)s must be put in order: those in which triggers wrote, and those in which the calls of two
-- triggers wrote entries of one table, some that remove rows and some that add rows.
SELECT m.xid::text FROM changefeed.mixed(%(xids)s::text[]::xid8[]) AS m (xid);

-- transactions before --
-- The transactions that wrote the entries with ids from %(begin)s on and before %(end)s, except %(excepted)s, newest first: how many
-- each wrote there, and whether it wrote entries before these, and behind them. It reads at most %(limit)s entries, the newest.
SELECT t.xid::text, t.entries,
    EXISTS (SELECT FROM changefeed.journal AS b WHERE b.xid = t.xid AND b.id < %(begin)s),
    EXISTS (SELECT FROM changefeed.journal AS b WHERE b.xid = t.xid AND b.id >= %(end)s)
FROM (
    SELECT j.xid, count(*) AS entries, max(j.id) AS last_id
    FROM (
        SELECT id, xid FROM changefeed.journal
        WHERE id >= %(begin)s AND id < %(end)s AND xid <> %(excepted)s::text::xid8 ORDER BY id DESC LIMIT %(limit)s
    ) AS j
    GROUP BY j.xid
) AS t
ORDER BY t.last_id DESC;

-- newest deleted --
-- The newest transaction that retention has deleted, and the highest id, 0 for none.
SELECT x.last_value, i.last_value FROM changefeed.lost_xid AS x, changefeed.lost_id AS i;

-- entries --
-- The entries %(ids)s of one transaction, in that order, up to %(byte_limit)s bytes of text, but at least one. Without
-- %(row_limit_bytes)s it reads no rows; with it, a larger entry becomes a loss.
SELECT id, xid::text, at, action, schema_name, table_name, data, old, row_count
FROM (
    SELECT j.id, j.xid, to_json(j.at AT TIME ZONE 'UTC') #>> '{}' || '+00:00' AS at, j.schema_name, j.table_name,
        CASE WHEN b.bytes > %(row_limit_bytes)s THEN 'L' ELSE j.action::text END AS action,
        CASE WHEN b.bytes <= %(row_limit_bytes)s THEN j.data::text END AS data,
        CASE WHEN b.bytes <= %(row_limit_bytes)s THEN j.old::text END AS old,
        CASE WHEN b.bytes > %(row_limit_bytes)s THEN NULL ELSE j.row_count END AS row_count,
        asked.number,
        sum(CASE WHEN b.bytes <= %(row_limit_bytes)s THEN b.bytes ELSE 0 END)
            OVER (ORDER BY asked.number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
    FROM unnest(%(ids)s::bigint[]) WITH ORDINALITY AS asked (id, number)
    JOIN changefeed.journal AS j ON j.id = asked.id,
        LATERAL (SELECT coalesce(octet_length(j.data::text), 0) + coalesce(octet_length(j.old::text), 0)) AS b (bytes)
) AS found
WHERE coalesce(bytes_before, 0) < %(byte_limit)s
ORDER BY number;
