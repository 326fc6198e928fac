"""Tests of the modules of access/, each by itself."""
