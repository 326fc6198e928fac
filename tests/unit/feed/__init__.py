"""Tests of the modules of handlers/feed/, each by itself."""
