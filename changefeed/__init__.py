"""The change feed of a PostgreSQL database, from LISTEN to broadcast. Knows nothing of HTTP or browsers.

The modules stand in the order of the flow: `listener` hears PostgreSQL, `change` gives a payload its type, `hub`
hands each change to whoever is interested, `tally` counts it. `database` is the road for queries, `embedded` and
`demo` stand in for a database when the settings name none.
"""

__version__ = "0.2.0"
