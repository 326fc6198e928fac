"""Tests of the modules of app/, each by itself."""
