"""The feed for clients: /ws, /events and /listen, and what they share."""
