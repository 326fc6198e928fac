"""Tests of `python server.py` as a process of its own."""
