"""PostgreSQL: connections, LISTEN, the pools for queries, the statements by name, the embedded server."""
