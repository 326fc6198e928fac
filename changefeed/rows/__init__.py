"""The rows of a table and the place of their snapshot in the feed: a query in, a reading that many clients take out."""
