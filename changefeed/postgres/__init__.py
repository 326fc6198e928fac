"""Access to PostgreSQL: connections, LISTEN, query pools, named statements, the embedded server."""
