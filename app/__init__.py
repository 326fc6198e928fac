"""The composition: connects the other rooms to a running server, starts it and stops it. Only server.py imports it."""
