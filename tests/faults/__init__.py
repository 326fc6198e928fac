"""What goes wrong, done on purpose to a real server and a real PostgreSQL, and the outcome: docs/faults.md.

    site.py      PostgreSQL, a server, who writes, and followers that must get each change once
    database.py  faults of PostgreSQL, of the network to it, and of the server's own process
    clients.py   faults of clients: stuck, malformed, huge, slow, malicious
    machine.py   faults of the machine: no file descriptors, no room on the disk, a clock that jumps
    report.py    the table of them

`python -m tests.faults` does all of them, five times each, and prints the table, which is `make faults`.
"""
