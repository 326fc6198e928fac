-- Puts notify_event() (trigger_func.sql) on a table; write your table's name for portal_eventrequests.
CREATE OR REPLACE TRIGGER notify_event
    AFTER INSERT OR UPDATE OR DELETE ON portal_eventrequests
    FOR EACH ROW EXECUTE FUNCTION notify_event();
