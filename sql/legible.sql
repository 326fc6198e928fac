-- Shows texts that UTF-8, which the server and its clients use, cannot express: bytes of a SQL_ASCII database, and characters of
-- WIN1252 and others. A message with such a text fails the statement that sends it, even if it is only a warning.

-- The text; if UTF-8 cannot express it, its bytes as in E'caf\351'.
CREATE OR REPLACE FUNCTION changefeed.shown(name text)
RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp SET exit_on_error = off AS $function$
BEGIN
    PERFORM convert_to(name, 'UTF8');
    RETURN name;
EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
    RETURN encode(decode(replace(name, chr(92), chr(92) || chr(92)), 'escape'), 'escape');
END
$function$;

-- Warns, and never fails: if the client's encoding cannot express the message, only PostgreSQL's log has it.
CREATE OR REPLACE FUNCTION changefeed.warn(message text)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET exit_on_error = off AS $function$
BEGIN
    RAISE WARNING 'changefeed: %', message;
EXCEPTION WHEN OTHERS THEN
    NULL;
END
$function$;
REVOKE ALL ON FUNCTION changefeed.warn(text) FROM PUBLIC;

-- Raises an error unless all can be names of columns, or of tables with their schemas: what a caller may have noted has a bound. A
-- name has at most 63 bytes; a server shows some as four characters, and a quote in the name of a table as two.
CREATE OR REPLACE FUNCTION changefeed.check_names(names text[])
RETURNS void LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp SET exit_on_error = off AS $function$
DECLARE
    most_names constant integer := 100000;
    most_characters constant integer := 260;
BEGIN
    IF cardinality(names) > most_names THEN
        RAISE EXCEPTION 'there are % names, and may be %', cardinality(names), most_names USING ERRCODE = 'program_limit_exceeded';
    ELSIF EXISTS (SELECT FROM unnest(names) AS n (name) WHERE name IS NULL OR length(name) > most_characters) THEN
        RAISE EXCEPTION 'a name must have at most % characters, and may not be null', most_characters USING ERRCODE = 'name_too_long';
    END IF;
END
$function$;
REVOKE ALL ON FUNCTION changefeed.check_names(text[]) FROM PUBLIC;
