"""Which changes a client asked for and may see: subscriptions, filters, rights."""
