"""The change feed of a PostgreSQL database, from LISTEN to broadcast. Knows nothing of HTTP or browsers.

`hub` is the middle: changes come to it from `postgres` (LISTEN) and `journal`, each a `change`; it counts them in
`counts` and passes them on to clients by their `selection`. docs/architecture.md follows a change through all of it.
"""

__version__ = "0.2.0"
