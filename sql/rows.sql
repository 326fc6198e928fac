-- Reads the rows of a watched table as the feed shows them: for "rows, then changes" (changefeed/rows/reading.py).
--
-- The rows are read with the rights of the role that reads, here the session's own. PostgreSQL runs code of a table's owner for
-- the role that reads the table: when it plans the query it evaluates what the owner wrote into an index, a statistics object or a
-- partition's key. A check for such code would be outdated at once, since the owner may add it at any moment. So the
-- owner must be trusted, and so must the schema's owner, who may put another table in its place.

-- What to read of a table: the text after FROM, with the alias t; of each column the name, its name as in SQL, and the expression of its
-- value; which are hashed; and the primary key. Call it after LOCK TABLE, in the transaction that reads, whose snapshot was taken after
-- the lock: then the columns are what the catalog says.
CREATE OR REPLACE FUNCTION changefeed.rows_source(target oid, trusted_owners text[])
RETURNS TABLE (source text, names text[], quoted_names text[], expressions text[], hashed text[], key text[])
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
#variable_conflict use_column
DECLARE
    reader constant oid := (SELECT r.oid FROM pg_roles AS r WHERE r.rolname = session_user);
    journal_owner constant oid := (SELECT r.oid FROM pg_roles AS r WHERE r.rolname = current_user);
    name text;
    is_partitioned boolean;
    watched_with jsonb;
    untrusted text;
BEGIN
    SELECT format('%I.%I', n.nspname, c.relname), c.relkind = 'p' INTO name, is_partitioned
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = target AND c.relkind IN ('r', 'p') AND NOT c.relispartition;
    SELECT w.options INTO watched_with FROM changefeed.watched(ARRAY[target]) AS w;
    IF name IS NULL OR watched_with IS NULL THEN
        RAISE EXCEPTION 'the table is not watched' USING ERRCODE = 'CF001';
    END IF;
    SELECT quote_ident(r.rolname) INTO untrusted
    FROM (
        SELECT c.relowner FROM pg_class AS c
        WHERE c.oid = target OR is_partitioned AND c.oid IN (SELECT m.member FROM changefeed.members(ARRAY[target]) AS m)
        UNION
        SELECT CASE WHEN o.rolname = 'pg_database_owner' THEN d.datdba ELSE n.nspowner END
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_roles AS o ON o.oid = n.nspowner, pg_database AS d
        WHERE c.oid = target AND d.datname = current_database()
    ) AS owner (oid) LEFT JOIN pg_roles AS r ON r.oid = owner.oid
    WHERE (
        r.rolsuper OR r.oid IN (reader, journal_owner) OR r.rolname = ANY (trusted_owners) OR pg_has_role(r.oid, reader, 'MEMBER')
    ) IS NOT TRUE
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% belongs to %, or its schema or a partition does; to read it would let code of that role run with the rights of %',
            name, coalesce(untrusted, 'a role that was dropped'), quote_ident(session_user)
            USING ERRCODE = 'CF002';
    END IF;
    IF is_partitioned AND changefeed.has_foreign_partition(target) THEN
        RAISE EXCEPTION '% has foreign partitions, whose rows no snapshot of this database shows', name USING ERRCODE = 'CF003';
    END IF;
    IF EXISTS (
        SELECT FROM pg_class AS c JOIN pg_roles AS r ON r.oid = reader
        WHERE c.oid = target AND c.relrowsecurity AND NOT r.rolsuper AND NOT r.rolbypassrls
          AND (c.relforcerowsecurity OR NOT pg_has_role(reader, c.relowner, 'USAGE'))
    ) THEN
        RAISE EXCEPTION 'row-level security hides rows of % from %', name, quote_ident(session_user) USING ERRCODE = 'CF004';
    END IF;
    name := changefeed.gone_column(target, watched_with::json);
    IF name IS NOT NULL THEN
        RAISE EXCEPTION 'the column % that was to be left out or hashed is gone', quote_ident(name) USING ERRCODE = 'CF005';
    END IF;
    RETURN QUERY
    SELECT
        format(CASE WHEN is_partitioned THEN '%I.%I AS t' ELSE 'ONLY %I.%I AS t' END, n.nspname, c.relname),
        coalesce(shown.names, '{}'), coalesce(shown.quoted_names, '{}'), coalesce(shown.expressions, '{}'), coalesce(shown.hashed, '{}'),
        coalesce(
            (
                SELECT array_agg(a.attname::text)
                FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
                WHERE i.indrelid = target AND i.indisprimary
            ),
            '{}'
        )
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace, LATERAL (
        SELECT
            array_agg(a.attname::text ORDER BY a.attnum),
            array_agg(quote_ident(a.attname) ORDER BY a.attnum),
            array_agg(
                CASE
                    WHEN is_hashed THEN format(
                        'CASE WHEN num_nonnulls(t.%1$I) = 1 THEN changefeed.hash_of_row(%2$s, %1$L, format(''%%s'', t.%1$I)) END',
                        a.attname, target
                    )
                    WHEN a.attgenerated = 'v' THEN format('t.%I', a.attname)
                    -- The lock keeps the column's type, but a type may get another owner since the snapshot.
                    ELSE changefeed.json_value(format('t.%I', a.attname), a.atttypid, a.atttypid < 16384)
                END
                ORDER BY a.attnum
            ),
            array_agg(a.attname::text) FILTER (WHERE is_hashed)
        FROM pg_attribute AS a, LATERAL (SELECT coalesce(watched_with -> 'hash' ? a.attname::text, false)) AS h (is_hashed)
        WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped
          AND coalesce(watched_with -> 'omit' ? a.attname::text, false) IS FALSE
    ) AS shown (names, quoted_names, expressions, hashed)
    WHERE c.oid = target;
END
$function$;

-- The hash that stands for a value of a row that the session's role may read. Only the owner may read the secret. The value's
-- text must have been made with the settings of changefeed.settled_text().
CREATE OR REPLACE FUNCTION changefeed.hash_of_row(target oid, column_name text, value text)
RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    IF NOT has_column_privilege(session_user, target, column_name, 'SELECT') THEN
        RAISE EXCEPTION 'permission denied for the column %', quote_ident(column_name) USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN changefeed.hash(target, column_name, value);
END
$function$;

-- The next rows of an open cursor, of one text each: until they have `byte_limit` bytes together, but at least one. After the last
-- row comes null. Fails at a row of more than `row_limit_bytes`.
CREATE OR REPLACE FUNCTION changefeed.next_rows(reading refcursor, byte_limit integer, row_limit_bytes integer)
RETURNS SETOF text LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
DECLARE
    line text;
    bytes bigint := 0;
BEGIN
    WHILE bytes < byte_limit LOOP
        FETCH NEXT FROM reading INTO line;
        IF NOT FOUND THEN
            RETURN NEXT NULL;
            RETURN;
        END IF;
        IF octet_length(line) > row_limit_bytes THEN
            RAISE EXCEPTION 'a row has % bytes', octet_length(line) USING ERRCODE = 'CF006';
        END IF;
        bytes := bytes + octet_length(line);
        RETURN NEXT line;
    END LOOP;
END
$function$;
