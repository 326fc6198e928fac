"""Tests of the modules of handlers/access/, each by itself."""
