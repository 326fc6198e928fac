-- notify_event(): sends each changed row to the channel `events`, as one JSON object in the payload.
--
--     {"table": "orders", "action": "UPDATE", "data": {...the new row; on DELETE the old one...}}
--
-- The name, the channel and the JSON are those of the original psqlisten2websocket, so that its triggers and its
-- readers continue to work. Its limits: a payload of 8000 bytes or more makes pg_notify fail, and the write with it
-- (SQLSTATE 22023), and of equal payloads within one transaction only one is delivered.
CREATE OR REPLACE FUNCTION notify_event() RETURNS trigger
LANGUAGE plpgsql AS $function$
BEGIN
    PERFORM pg_notify(
        'events',
        json_build_object(
            'table', TG_TABLE_NAME,
            'action', TG_OP,
            'data', CASE TG_OP WHEN 'DELETE' THEN row_to_json(OLD) ELSE row_to_json(NEW) END
        )::text
    );
    RETURN NULL;  -- ignored for an AFTER trigger
END
$function$;
