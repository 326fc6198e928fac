"""Answers HTTP requests and serves WebSockets and event streams. Contains no SQL."""
