"""Tests of the modules of postgres/, each by itself."""
