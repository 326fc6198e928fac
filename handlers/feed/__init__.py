"""The feed for clients: /ws, /events and /listen, with what they have in common."""
