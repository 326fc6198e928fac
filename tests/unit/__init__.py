"""Tests of the modules of a room each, without a server; beside them, tests of all parsers at once."""
