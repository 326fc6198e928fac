"""The server's doors: HTTP and WebSocket requests in, answers and messages out. Knows no SQL."""
