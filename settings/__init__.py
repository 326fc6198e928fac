"""Settings: the table of all of them, where their values come from, how a text becomes a value."""
