"""The proof of the guarantees: real servers under faults, readers that rebuild the tables, and a comparison.

Many writers change the tables of one PostgreSQL in every way they can. Readers of each kind follow two server processes
of that database, drop, and resume by cursor. Faults of every kind hit the servers, PostgreSQL and the lines between
them. A reader has nothing but the feed, applies it strictly, and must in the end hold what the tables hold.

    schema.py      the tables, and the triggers of their own that they have
    writers.py     who changes them
    replica.py     a reader's copy of the tables: takes changes, refuses what cannot be
    reader.py      who follows the feed, drops, and resumes
    transports.py  a reader for each transport
    ground.py      PostgreSQL, the servers, the lines between them
    faults.py      what goes wrong
    run.py         rounds of faults, and the checkpoints at which everything must be equal

    random_schema.py   tables with triggers and foreign keys at random, and what is written to them
    random_schemas.py  many of those, without faults, on each PostgreSQL: the changes must be what happened
    strict_replay.py   their comparison, and the limits of the order

`python -m tests.oracle --rounds 1000 --seed 7` runs it; tests/project/test_oracle.py is its short form.
"""
