"""Tests of the modules of changefeed/journal/, each by itself."""
