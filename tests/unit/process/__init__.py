"""Tests of the modules of process/, each by itself."""
