"""Answers HTTP requests and serves WebSockets and event streams. Knows no SQL."""
