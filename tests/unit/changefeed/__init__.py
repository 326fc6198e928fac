"""Tests of the modules of changefeed/ that have no room of their own, each by itself."""
