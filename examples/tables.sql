-- The tables of the examples, in a schema of their own: DROP SCHEMA examples CASCADE removes them.

CREATE SCHEMA IF NOT EXISTS examples;
DO $$
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    IF (SELECT nspowner <> current_user::regrole FROM pg_catalog.pg_namespace WHERE nspname = 'examples') THEN
        RAISE EXCEPTION 'the schema examples belongs to another role, whose triggers would run with the rights of yours';
    END IF;
END $$;

CREATE TABLE IF NOT EXISTS examples.tasks (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    title text NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
    done boolean NOT NULL DEFAULT false
);
CREATE TABLE IF NOT EXISTS examples.messages (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    author text NOT NULL CHECK (length(author) BETWEEN 1 AND 50),
    body text NOT NULL CHECK (length(body) BETWEEN 1 AND 2000)
);
CREATE TABLE IF NOT EXISTS examples.jobs (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    percent integer NOT NULL DEFAULT 0 CHECK (percent BETWEEN 0 AND 100)
);
