-- Creates the schemas, or fails if another role could change what is in them: that would run with the rights of the installing
-- role (CVE-2022-2625 was of this kind). No SET ROLE to an owner with fewer rights: code of theirs could take
-- the session's own role back. Nor is a role relied on that the session began with: the owner of a database may choose it for
-- all users (ALTER DATABASE ... SET role). A SET ROLE within the session is its user's own decision.
DO $guard$
DECLARE
    schema_name text;
    owner record;
    foreign_one text;
    began_as name := session_user;
    is_super constant boolean := (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = session_user);
BEGIN
    IF current_user <> session_user AND NOT (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) THEN
        BEGIN
            RESET ROLE;
            began_as := current_user;
            RAISE SQLSTATE 'CF000';  -- takes it back
        EXCEPTION WHEN SQLSTATE 'CF000' THEN
            NULL;
        END;
        IF is_super OR began_as <> session_user THEN
            RAISE EXCEPTION 'this session of % runs as %, whose code could run with the rights of %',
                quote_ident(session_user), quote_ident(current_user), quote_ident(session_user)
                USING ERRCODE = 'insufficient_privilege', HINT = CASE WHEN is_super
                    THEN format('SET ROLE NONE first, or connect as %I.', current_user)
                    ELSE format('Connect as %I; or with PGOPTIONS=''-c role=none'', and SET ROLE %1$I then.', current_user)
                END;
        END IF;
    END IF;
    FOREACH schema_name IN ARRAY ARRAY['changefeed', 'changefeed_secret'] LOOP
        IF to_regnamespace(schema_name) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE SCHEMA %I', schema_name);
            EXCEPTION WHEN duplicate_schema OR unique_violation THEN
                NULL;  -- another install at the same time has created it
            WHEN insufficient_privilege THEN
                RAISE EXCEPTION '% may not make the schema % in the database %',
                    quote_ident(current_user), schema_name, quote_ident(current_database())
                    USING ERRCODE = 'insufficient_privilege', HINT = format(
                        'Run this as the owner of the database, or let that one GRANT CREATE ON DATABASE %I TO %I;',
                        current_database(), current_user
                    );
            END;
        END IF;
        SELECT r.rolname AS name, r.rolsuper AND me.rolsuper AS is_peer INTO owner
        FROM pg_namespace AS n JOIN pg_roles AS r ON r.oid = n.nspowner JOIN pg_roles AS me ON me.rolname = current_user
        WHERE n.nspname = schema_name;
        IF owner.is_peer THEN
            EXECUTE format('SET LOCAL ROLE %I', owner.name);  -- new objects get the same owner as the rest
        ELSIF owner.name <> current_user THEN
            RAISE EXCEPTION 'the schema % belongs to %, this is %',
                schema_name, quote_ident(owner.name), quote_ident(current_user)
                USING ERRCODE = 'insufficient_privilege', HINT = format(
                    'Connect as %s to install or upgrade it; if it is not the change feed''s, rename it.',
                    quote_ident(owner.name)
                );
        END IF;
    END LOOP;
    BEGIN
        IF EXISTS (SELECT FROM pg_class AS c WHERE c.oid = to_regclass('changefeed.meta') AND c.relkind = 'r') THEN
            -- One install at a time, and no new triggers on it meanwhile. Unlike an advisory lock, this one needs a right.
            LOCK TABLE ONLY changefeed.meta IN SHARE UPDATE EXCLUSIVE MODE;
        END IF;
    EXCEPTION WHEN undefined_table OR invalid_schema_name THEN
        NULL;  -- an uninstall has dropped it, for which this waited
    END;
    IF to_regnamespace('changefeed') IS NULL OR to_regnamespace('changefeed_secret') IS NULL THEN
        RAISE EXCEPTION 'the schema changefeed was removed meanwhile'
            USING ERRCODE = 'CF010', HINT = 'Nothing was changed. Run this again to install it.';
    END IF;
    WITH distrusted AS (
        SELECT r.oid FROM pg_roles AS r WHERE r.rolname <> current_user AND NOT r.rolsuper
    )
    SELECT pg_describe_object(d.classid, d.objid, 0) INTO foreign_one
    FROM pg_depend AS d
    WHERE d.refclassid = 'pg_namespace'::regclass
      AND d.refobjid IN ('changefeed'::regnamespace, 'changefeed_secret'::regnamespace)
      AND EXISTS (
          SELECT FROM pg_shdepend AS s
          WHERE s.dbid = (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database())
            AND s.classid = d.classid AND s.objid = d.objid AND s.deptype = 'o' AND s.refobjid IN (SELECT oid FROM distrusted)
      )
    UNION ALL
    -- A trigger, rule, default, constraint or index of a table of ours that calls a function of another role.
    SELECT pg_describe_object(d.classid, d.objid, 0)
    FROM pg_depend AS d JOIN pg_proc AS p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid
    WHERE p.proowner IN (SELECT oid FROM distrusted) AND EXISTS (
        SELECT FROM pg_depend AS o JOIN pg_class AS c ON c.oid = o.refobjid
        WHERE o.classid = d.classid AND o.objid = d.objid AND o.refclassid = 'pg_class'::regclass
          AND c.relnamespace = 'changefeed'::regnamespace
    )
    LIMIT 1;
    IF foreign_one IS NOT NULL THEN
        RAISE EXCEPTION 'another role can change the schema changefeed or changefeed_secret: %', foreign_one
            USING ERRCODE = 'insufficient_privilege',
            HINT = format('Drop that, or make %s its owner if it is intended.', quote_ident(current_user));
    END IF;
END
$guard$;

