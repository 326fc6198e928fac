"""Tests of the modules of ordering/, each by itself."""
