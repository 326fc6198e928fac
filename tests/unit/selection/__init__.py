"""Tests of the modules of selection/, each by itself."""
