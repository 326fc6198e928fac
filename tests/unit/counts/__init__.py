"""Tests of the modules of changefeed/counts/, each by itself."""
