"""Tests of the modules of counts/, each by itself."""
