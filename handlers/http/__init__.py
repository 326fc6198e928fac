"""What all requests share: the context, base classes, the HTTP server, its certificate."""
