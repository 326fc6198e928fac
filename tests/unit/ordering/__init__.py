"""Tests of the modules of changefeed/ordering/, each by itself."""
