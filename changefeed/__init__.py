"""The change feed of a PostgreSQL database, from LISTEN to broadcast. Knows nothing of HTTP or browsers.

`hub` is the center: it gets each `change` from `postgres` (LISTEN) or `journal`, counts it in `counts`, and passes it
on to clients by their `selection`. docs/architecture.md follows a change through all of it.
"""

__version__ = "0.2.0"
