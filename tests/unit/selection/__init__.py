"""Tests of the modules of changefeed/selection/, each by itself."""
