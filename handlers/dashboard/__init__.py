"""The dashboard's page, its session and its socket."""
