-- Grants a role what docs/least-rights.md says that the server needs, and nothing on your tables. As the schema's owner:
--
--     psql -v role=changefeed_server -f sql/grants.sql "$DATABASE_URL"
--
-- This is block (a). With -v watch=yes it grants the functions of (b) too, with -v rows=yes those of (d). Running it again changes
-- nothing, so run it after each upgrade.

\set ON_ERROR_STOP on
\if :{?role}
\else
    \set role changefeed_server
\endif
BEGIN;
GRANT USAGE ON SCHEMA changefeed TO :"role";
GRANT SELECT ON changefeed.meta, changefeed.journal, changefeed.journal_0, changefeed.journal_1, changefeed.journal_2, changefeed.journal_3,
    changefeed.journal_4, changefeed.journal_5, changefeed.journal_6, changefeed.journal_7 TO :"role";
GRANT SELECT ON ALL SEQUENCES IN SCHEMA changefeed TO :"role";
GRANT EXECUTE ON FUNCTION changefeed.read, changefeed.what_was_taken, changefeed.last_entries, changefeed.look, changefeed.note_retyped,
    changefeed.retyped_after, changefeed.entries_of, changefeed.mixed, changefeed.key_text, changefeed.can_be_parsed,
    changefeed.status(), changefeed.journal_status(), changefeed.journal_bytes(), changefeed.has_entries(integer),
    changefeed.oldest_entry(integer), changefeed.newest_entry(integer), changefeed.members(oid), changefeed.members(oid[]),
    changefeed.recorders(), changefeed.argument(bytea), changefeed.watched(oid[]),
    changefeed.wanted_triggers(oid[], jsonb[]), changefeed.has_foreign_partition(oid), changefeed.repairs(oid[], jsonb[]),
    changefeed.left_behind(oid[]), changefeed.check_target(regclass), changefeed.shown(text), changefeed.warn_of_limits(regclass), changefeed.check_expressions(oid, text[]), changefeed.check_triggers(oid), changefeed.name_now(oid),
    changefeed.lock_wait_ms() TO :"role";

GRANT UPDATE (epoch) ON changefeed.meta TO :"role";
GRANT DELETE ON changefeed.journal TO :"role";
GRANT TRUNCATE ON changefeed.journal_0, changefeed.journal_1, changefeed.journal_2, changefeed.journal_3,
    changefeed.journal_4, changefeed.journal_5, changefeed.journal_6, changefeed.journal_7 TO :"role";
GRANT UPDATE ON SEQUENCE changefeed.slot, changefeed.lost_xid, changefeed.lost_at, changefeed.lost_id, changefeed.awake_until
    TO :"role";
GRANT EXECUTE ON FUNCTION changefeed.retain, changefeed.empty_partition, changefeed.note_rotation,
    changefeed.note_taken, changefeed.begin_anew_if_restored,
    changefeed.refresh(), changefeed.refresh(oid[]) TO :"role";

\if :{?watch}
\if :watch
GRANT EXECUTE ON FUNCTION changefeed.watch, changefeed.apply, changefeed.request, changefeed.grant_request TO :"role";
\endif
\endif
\if :{?rows}
\if :rows
GRANT EXECUTE ON FUNCTION changefeed.cursor(), changefeed.rows_source, changefeed.hash_of_row, changefeed.json_array, changefeed.next_rows, changefeed.refuse_column TO :"role";
\endif
\endif
COMMIT;
