"""The composition: puts the rooms together into a running server, starts it and stops it. Only server.py imports it."""
