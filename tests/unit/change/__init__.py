"""Tests of the modules of change/, each by itself."""
