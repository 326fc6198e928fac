"""A long, even load on a real server, to see what drifts: memory, descriptors, latency; and whether a change is lost.

    load.py       changes whose order anyone can foretell, at a pace
    followers.py  clients that must get each change once, whatever happens, and check it
    visitors.py   clients that come and go in every manner, and check nothing
    figures.py    what is measured each minute, the table of it, and what drifts
    run.py        PostgreSQL, the server, light faults, and all of these together

`python -m tests.soak --minutes 60` runs it, which is `make soak-load`.
"""
