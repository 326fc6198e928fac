"""The HTTP API: changes, places, tables, status, health, and its description."""
