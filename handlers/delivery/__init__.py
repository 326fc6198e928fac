"""Delivers changes to clients: grouped by audience, framed once, sent through bounded outboxes, counted."""
