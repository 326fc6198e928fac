"""The answer of /metrics, and the gauges that are sampled for it."""
