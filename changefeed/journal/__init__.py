"""The journal in the database: read in the order of commits, followed, kept in memory, watched over."""
