-- The journal: one row for each changed row of a watched table, in the order of id.
--
-- An id is drawn while the changed row is locked, so the ids of one row's changes rise from transaction to transaction in
-- the order in which they happened; for that the sequence must hand out one at a time (CACHE 1). Within a transaction they
-- do too, unless triggers or foreign keys write: then the reader computes the order (see changefeed/ordering/transaction_order.py).
-- Ids are not in the order of commits, so a reader must not continue at "the last id": see read.sql.
CREATE SCHEMA IF NOT EXISTS changefeed;
COMMENT ON SCHEMA changefeed IS 'psqlisten2websocket: the journal of changes; remove it with sql/uninstall.sql';

CREATE TABLE IF NOT EXISTS changefeed.meta (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    version integer NOT NULL,                      -- of this installation, for upgrades
    epoch uuid NOT NULL DEFAULT gen_random_uuid()  -- part of each cursor; a new journal refuses old cursors
);
-- Servers that know at least the version `readable_from` can read the journal; an older one says on /readyz that it cannot.
-- Before version 5 there was no such column. And a restore that failed, or that a server of an earlier state of version 5 disturbed,
-- leaves the table without its key, perhaps with two rows. Servers read this table with each page, and would queue behind a session
-- that waits for a lock on it: so the lock is tried without waiting, again and again.
DO $complete_meta$
DECLARE
    deadline constant timestamptz := clock_timestamp() + interval '10 seconds';
    has_key constant boolean := EXISTS (
        SELECT FROM pg_index AS i WHERE i.indrelid = 'changefeed.meta'::regclass AND i.indisprimary
    );
    has_column constant boolean := EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = 'changefeed.meta'::regclass AND a.attname = 'readable_from' AND NOT a.attisdropped
    );
BEGIN
    IF has_key AND has_column THEN
        RETURN;
    END IF;
    LOOP
        BEGIN
            PERFORM set_config('lock_timeout', '50ms', true);
            LOCK TABLE changefeed.meta IN ACCESS EXCLUSIVE MODE;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            IF clock_timestamp() > deadline THEN
                RAISE EXCEPTION 'the upgrade needs a moment in which no transaction is open that has read changefeed.meta, as a backup does'
                    USING ERRCODE = 'lock_not_available', HINT = 'Nothing was changed. Try again; pg_locks says who it is.';
            END IF;
        END;
        PERFORM pg_sleep(0.05 * (1 + random()));
    END LOOP;
    IF NOT has_key THEN
        IF (SELECT count(*) FROM changefeed.meta) > 1 THEN
            DELETE FROM changefeed.meta;  -- so that it gets an epoch of its own
        END IF;
        ALTER TABLE changefeed.meta ADD PRIMARY KEY (is_only);
    END IF;
    IF NOT has_column THEN
        ALTER TABLE changefeed.meta ADD COLUMN readable_from integer NOT NULL DEFAULT 5;
    END IF;
END
$complete_meta$;
INSERT INTO changefeed.meta AS m (version, readable_from) VALUES (5, 5)
ON CONFLICT (is_only) DO UPDATE SET version = excluded.version, readable_from = excluded.readable_from
WHERE m.version < excluded.version;

CREATE SEQUENCE IF NOT EXISTS changefeed.journal_id CACHE 1;
-- The partition that is being written, 0 to 7. A sequence, because no snapshot hides its value: a transaction that began before
-- the last rotation writes to the right partition too.
CREATE SEQUENCE IF NOT EXISTS changefeed.slot MINVALUE 0 MAXVALUE 7 START 0;
-- The number of statements for which not even a loss could be recorded (see record.sql). A sequence, so that no writer waits
-- for another.
CREATE SEQUENCE IF NOT EXISTS changefeed.losses;
-- Of the entries that retention deleted: the newest transaction, when its last entry was made (in microseconds since 1970), and
-- the highest id. Sequences, because even a reader whose snapshot is older than a TRUNCATE finds the partition empty, and must
-- see why.
CREATE SEQUENCE IF NOT EXISTS changefeed.lost_xid MINVALUE 0 START 0;
CREATE SEQUENCE IF NOT EXISTS changefeed.lost_at MINVALUE 0 START 0;
CREATE SEQUENCE IF NOT EXISTS changefeed.lost_id MINVALUE 0 START 0;
-- Until when, in milliseconds since 1970, writers need send no NOTIFY, since a server reads every few milliseconds anyway: a
-- lease, which servers take and renew for a second each time (changefeed/journal/lease.py). A sequence,
-- because no snapshot hides its value. A value more than two seconds ahead does not count: PostgreSQL's clock was set back.
CREATE SEQUENCE IF NOT EXISTS changefeed.awake_until MINVALUE 0 START 0;
-- These two came with version 5: roles that may read or maintain the others get the same rights on them.
DO $granted$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT a.privilege_type, CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
        FROM pg_class AS c, aclexplode(c.relacl) AS a
        WHERE c.oid = 'changefeed.lost_xid'::regclass AND a.grantee <> c.relowner
    LOOP
        EXECUTE format(
            'GRANT %s ON SEQUENCE changefeed.lost_at, changefeed.awake_until TO %s', granted.privilege_type, granted.grantee
        );
    END LOOP;
END
$granted$;

-- lastval() returns the last number that nextval() drew in the session, which would be an id of the journal. setval() replaces the
-- last number that this session drew from a sequence. So after drawing ids record.sql draws from the first of these, which
-- every role may read, and none else may draw from, and sets it to the writer's number. The second means "no number was drawn": no other role may read it, so
-- lastval() fails as before. A crash may reset the first, so it is unlogged, if PostgreSQL supports that. It may hold another
-- writer's number for a moment, even the highest possible one, after which it begins again.
DO $lastval$
BEGIN
    IF to_regclass('changefeed.lastval') IS NULL THEN
        EXECUTE format(
            'CREATE %s SEQUENCE changefeed.lastval MINVALUE -9223372036854775808 START 1 CYCLE',
            CASE WHEN current_setting('server_version_num')::integer >= 150000 THEN 'UNLOGGED' END
        );
    END IF;
END
$lastval$;
REVOKE USAGE ON SEQUENCE changefeed.lastval FROM PUBLIC;  -- granted before; by its oid, it let all users draw numbers
GRANT SELECT ON SEQUENCE changefeed.lastval TO PUBLIC;
CREATE SEQUENCE IF NOT EXISTS changefeed.no_lastval
    MINVALUE -9223372036854775808 START -9223372036854775808 MAXVALUE -9200000000000000000 CACHE 1000 CYCLE;

-- Only its currval() counts, which belongs to the session: the time at which the session's script arrived that was searched for
-- statements that may move rows, and whether the search found none (record.sql).
CREATE SEQUENCE IF NOT EXISTS changefeed.searched;

CREATE TABLE IF NOT EXISTS changefeed.journal (
    slot smallint NOT NULL,
    depth smallint NOT NULL DEFAULT pg_trigger_depth(),  -- 1, or more if a trigger made the change
    id bigint NOT NULL DEFAULT nextval('changefeed.journal_id'),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at timestamptz NOT NULL,
    action "char" NOT NULL,   -- I, U, D, T; or L, for changes that could not be recorded, or that no trigger saw (see unrecorded.sql)
    schema_name text NOT NULL,
    table_name text NOT NULL,
    data json,                -- the new row; for D the old one; for L the reason, if known
    old json,                 -- for U the whole old row: the reader, not the writer, computes the difference
    row_count bigint          -- if one entry stands for a statement of that many rows
) PARTITION BY LIST (slot);

DO $partitions$
BEGIN
    FOR slot IN 0..7 LOOP
        CONTINUE WHEN to_regclass(format('changefeed.journal_%s', slot)) IS NOT NULL;
        EXECUTE format('CREATE TABLE changefeed.journal_%s PARTITION OF changefeed.journal FOR VALUES IN (%s)', slot, slot);
        EXECUTE format('CREATE INDEX ON changefeed.journal_%s (xid, id)', slot);  -- what is new
        EXECUTE format('CREATE INDEX ON changefeed.journal_%s (id)', slot);       -- what comes next
    END LOOP;
END
$partitions$;

-- What version 5 added to a partition: an index that finds the losses; and a replica identity, without which PostgreSQL
-- refuses a DELETE if there is a publication FOR ALL TABLES. An upgrade leaves a partition that is in use as it is until
-- retention empties it, because these changes would keep writers waiting.
CREATE OR REPLACE FUNCTION changefeed.complete_partition(slot integer)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $function$
BEGIN
    EXECUTE format(
        'CREATE INDEX IF NOT EXISTS journal_%1$s_losses ON changefeed.journal_%1$s (id) WHERE action = %2$L', slot, 'L'
    );
    EXECUTE format('ALTER TABLE changefeed.journal_%s REPLICA IDENTITY FULL', slot);
END
$function$;
-- What retention deleted, as needed to decide whether a client has read all of it: one row. For each transaction that `snapshot`
-- does not see, `ids` has the highest deleted id, at the place where `xids` has the transaction; a transaction that is missing
-- lost nothing. Of those that it sees, any entry may have been deleted. See retention.sql, which writes it, and
-- changefeed/journal/horizon.py.
CREATE TABLE IF NOT EXISTS changefeed.taken (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    epoch uuid NOT NULL,
    number bigint NOT NULL,  -- the number of times it was written
    snapshot pg_snapshot NOT NULL,
    xids bigint[] NOT NULL,  -- the newest first
    ids bigint[] NOT NULL
);
-- For each partition a snapshot of the moment when the next one was begun: the transactions that had ended by then.
CREATE TABLE IF NOT EXISTS changefeed.rotated (
    slot integer PRIMARY KEY,
    snapshot pg_snapshot NOT NULL
);

-- The snapshot that sees all transactions below `xmax` but the `running` ones.
CREATE OR REPLACE FUNCTION changefeed.snapshot_below(xmax bigint, running bigint[])
RETURNS pg_snapshot LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT format('%s:%s:%s', coalesce(min(r.xid), xmax), xmax, string_agg(r.xid::text, ',' ORDER BY r.xid))::pg_snapshot
    FROM (SELECT DISTINCT u.xid FROM unnest(running) AS u (xid) WHERE u.xid < snapshot_below.xmax) AS r
$function$;

-- After a dump and restore into a younger cluster the journal, or its record of what retention deleted, has transaction ids that
-- this cluster has yet to assign; each would appear as a new change, or as a gap, once it is assigned. Such a journal is emptied
-- and gets a new epoch, and so does one whose schema alone was restored: then meta has no row, but its key. (A restore that has
-- not come to the row yet has not made the key either.) Returns whether that happened. (By DELETE, not TRUNCATE: a DELETE does not
-- wait for readers.)
CREATE OR REPLACE FUNCTION changefeed.begin_anew_if_restored()
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    IF NOT EXISTS (SELECT FROM changefeed.meta) AND EXISTS (
        SELECT FROM pg_index AS i WHERE i.indrelid = 'changefeed.meta'::regclass AND i.indisprimary
    ) THEN
        INSERT INTO changefeed.meta (version, readable_from) VALUES (5, 5) ON CONFLICT (is_only) DO NOTHING;
    END IF;
    IF greatest(
        (
            SELECT j.xid::text::bigint FROM changefeed.journal AS j
            WHERE j.xid IS DISTINCT FROM pg_current_xact_id_if_assigned()
            ORDER BY j.xid DESC LIMIT 1
        ),
        (SELECT last_value FROM changefeed.lost_xid)
    ) < pg_snapshot_xmax(pg_current_snapshot())::text::bigint THEN
        RETURN false;
    END IF;
    DELETE FROM changefeed.journal;
    UPDATE changefeed.meta SET epoch = gen_random_uuid();
    PERFORM setval('changefeed.lost_xid', 0), setval('changefeed.lost_at', 0), setval('changefeed.lost_id', 0);
    RETURN true;
END
$function$;
DO $restored$ BEGIN PERFORM changefeed.begin_anew_if_restored(); END $restored$;

-- Of what version 4 deleted, only the end is known, and that no running transaction has lost anything.
INSERT INTO changefeed.taken (epoch, number, snapshot, xids, ids)
SELECT m.epoch, 1, changefeed.snapshot_below(x.last_value + 1, ARRAY(SELECT r::text::bigint FROM pg_snapshot_xip(pg_current_snapshot()) AS r)), '{}', '{}'
FROM changefeed.meta AS m, changefeed.lost_xid AS x WHERE x.last_value > 0
ON CONFLICT (is_only) DO NOTHING;
