"""Tests of the documents, the layout, the build and the programs that measure."""
