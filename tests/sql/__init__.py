"""Tests of sql/ on a real PostgreSQL."""
