-- The place of a transaction in the feed, for programs that read rows and then want the changes after exactly these:
--
--     BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
--     LOCK TABLE orders IN ACCESS SHARE MODE;
--     SELECT changefeed.cursor();
--     SELECT ... FROM orders;
--     COMMIT;
--
-- and then the feed with since=<that cursor>. What this snapshot sees is in the rows; the feed sends everything else.
-- (The lock comes before the snapshot, to which a table that was truncated meanwhile would look empty.)
--
-- One exception: losses of which nothing could be recorded are counted by a sequence, at once and not with the commit. So the place
-- counts also those of transactions that are still open, whose gap its holder does not get. Which transactions they are
-- of is kept nowhere, since nothing could be written; to count fewer would give a gap to all clients after each loss.
--
-- Owned by the journal's owner and run as that, so that a back end needs no right but EXECUTE on it. Its holder may have rights
-- to some tables only, and the place tells of all: when the newest change was made, and how many transactions there were. So what
-- it gives is encrypted and then signed, with keys that follow from the journal's epoch. A server accepts it from such
-- clients, but no other cursor made for other rights (changefeed/journal/signed_cursor.py reads it).
CREATE OR REPLACE FUNCTION changefeed.cursor()
RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off AS $function$
DECLARE
    snapshot pg_snapshot;
    seen_xmax bigint;
    newest bigint;  -- the newest transaction that the journal has an entry of, or had
    newest_at bigint := 0;  -- when its last entry was made, in microseconds since 1970
    lost_xid bigint;
    xmax bigint;
    place text;
    key bytea;
    nonce constant bytea := uuid_send(gen_random_uuid());  -- 122 bits of it are random
    plain bytea;
    key_stream bytea;
    sealed bytea;
    signature bytea;
BEGIN
    IF pg_is_in_recovery() THEN
        -- There pg_current_snapshot() names no running transaction, so changes would be lost.
        RAISE EXCEPTION 'a standby cannot tell the place of its snapshot in the feed'
            USING ERRCODE = 'feature_not_supported', HINT = 'Read the rows and the cursor on the primary.';
    END IF;
    IF current_setting('transaction_isolation') NOT IN ('repeatable read', 'serializable') THEN
        RAISE EXCEPTION 'each statement of this transaction sees another state, so no cursor fits them all'
            USING ERRCODE = 'active_sql_transaction', HINT = 'Begin with: BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY';
    END IF;
    IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RAISE EXCEPTION 'this transaction has written, so its rows hold changes that come again after the cursor'
            USING ERRCODE = 'active_sql_transaction', HINT = 'Read the rows and the cursor in a transaction that does not write.';
    END IF;
    snapshot := pg_current_snapshot();
    seen_xmax := pg_snapshot_xmax(snapshot)::text::bigint;
    SELECT j.xid::text::bigint, (extract(epoch FROM j.at) * 1000000)::bigint INTO newest, newest_at
    FROM changefeed.journal AS j ORDER BY j.xid DESC, j.id DESC LIMIT 1;
    SELECT l.last_value INTO lost_xid FROM changefeed.lost_xid AS l;
    IF newest IS NULL OR lost_xid > newest THEN
        newest := lost_xid;
        SELECT l.last_value INTO newest_at FROM changefeed.lost_at AS l;
    END IF;
    -- As in changefeed.read: what lies beyond the newest entry would be no place to come back to.
    xmax := greatest(least(newest + 1, seen_xmax), 1);
    IF xmax <> newest + 1 THEN
        newest_at := 0;
    END IF;
    SELECT format(
        '%s:%s:%s %s %s', coalesce(min(r.xid), xmax), xmax, string_agg(r.xid::text, ',' ORDER BY r.xid), newest_at,
        (SELECT CASE WHEN l.is_called THEN l.last_value ELSE 0 END FROM changefeed.losses AS l)
    ) INTO place
    FROM (SELECT x::text::bigint AS xid FROM pg_snapshot_xip(snapshot) AS x) AS r WHERE r.xid < xmax;
    SELECT sha256(convert_to(
        concat_ws(' ', 'sign cursors', m.epoch, c.system_identifier, d.oid, 'changefeed.journal'::regclass::oid), 'UTF8'
    )) INTO key
    FROM changefeed.meta AS m, pg_control_system() AS c, pg_database AS d WHERE d.datname = current_database();
    IF key IS NULL THEN
        RAISE EXCEPTION 'changefeed.meta is empty, as after a restore of the schema alone'
            USING HINT = 'Run sql/install.sql as its owner.';
    END IF;
    -- Without an extension there is no cipher, but SHA-256 by key and counter makes a key stream. Filled up with blanks, so that
    -- the length tells little of the number of open transactions.
    plain := convert_to(rpad(place, (length(place) + 63) / 64 * 64), 'UTF8');
    SELECT string_agg(sha256(sha256(key || convert_to('cipher', 'UTF8')) || nonce || int4send(i)), '' ORDER BY i) INTO key_stream
    FROM generate_series(0, octet_length(plain) / 32 - 1) AS i;
    SELECT nonce || string_agg(set_byte(decode('00', 'hex'), 0, get_byte(plain, i) # get_byte(key_stream, i)), '' ORDER BY i) INTO sealed
    FROM generate_series(0, octet_length(plain) - 1) AS i;
    -- Twice, so that one text and its hash do not give the hash of a longer text.
    signature := substr(sha256(key || sha256(key || sealed)), 1, 16);
    RETURN 'q.' || translate(encode(signature || sealed, 'base64'), E'+/=\n', '-_');
END
$function$;
