"""Tests of the modules of journal/, each by itself."""
