"""A change: its row, its JSON, how much of it may leave the server, and the gap that reports missing changes."""
