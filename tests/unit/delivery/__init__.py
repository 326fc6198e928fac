"""Tests of the modules of handlers/delivery/, each by itself."""
