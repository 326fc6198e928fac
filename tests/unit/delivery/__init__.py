"""Tests of the modules of delivery/, each by itself."""
