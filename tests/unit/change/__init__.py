"""Tests of the modules of changefeed/change/, each by itself."""
