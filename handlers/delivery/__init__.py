"""Changes on their way to clients: grouped by audience, framed once, sent through bounded outboxes, counted."""
