"""What every request has in common: the context, base classes, the HTTP server, its certificate."""
