-- Texts that have none in UTF-8, in which the server and its clients are told of them: the bytes of a SQL_ASCII database, and
-- what WIN1252 and its like have and UTF-8 has not. A message with such a text fails the statement that sends it, also where it
-- is only a warning.

-- The text; where it has none in UTF-8, its bytes as in E'caf\351'.
CREATE OR REPLACE FUNCTION changefeed.shown(name text)
RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp SET exit_on_error = off AS $function$
BEGIN
    PERFORM convert_to(name, 'UTF8');
    RETURN name;
EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
    RETURN encode(decode(replace(name, chr(92), chr(92) || chr(92)), 'escape'), 'escape');
END
$function$;

-- Warns, and never fails: of what the client's encoding has no text for only PostgreSQL's log tells.
CREATE OR REPLACE FUNCTION changefeed.warn(message text)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET exit_on_error = off AS $function$
BEGIN
    RAISE WARNING 'changefeed: %', message;
EXCEPTION WHEN OTHERS THEN
    NULL;
END
$function$;
REVOKE ALL ON FUNCTION changefeed.warn(text) FROM PUBLIC;
