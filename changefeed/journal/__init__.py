"""The journal in the database: reads it in the order of commits, follows it, caches it, and maintains it."""
