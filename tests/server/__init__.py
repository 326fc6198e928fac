"""Tests of a whole server within the tests' process."""
