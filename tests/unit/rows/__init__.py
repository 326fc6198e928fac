"""Tests of the modules of feed/, each by itself."""
