"""Measurements: of the server beside its peers, of the journal, of the dashboard, and on a user's own database."""
