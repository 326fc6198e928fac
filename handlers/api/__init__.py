"""The HTTP API: changes, lookup, tables, status, health, and its OpenAPI description."""
