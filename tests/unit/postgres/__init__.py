"""Tests of the modules of changefeed/postgres/, each by itself."""
