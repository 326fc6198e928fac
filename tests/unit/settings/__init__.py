"""Tests of the modules of settings/, each by itself."""
