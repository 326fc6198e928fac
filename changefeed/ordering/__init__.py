"""The order in which the rows of a transaction changed, where triggers and foreign keys wrote in it."""
