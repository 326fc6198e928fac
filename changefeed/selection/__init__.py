"""Selects the changes that a client asked for and may see: subscriptions, filters, rights."""
