"""Settings: the table of all settings, the sources of their values, the parsers of their texts."""
