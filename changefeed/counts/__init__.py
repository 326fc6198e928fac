"""Counts of changes by table, action and time; their delays; alerts; the backfill of the time before the start."""
