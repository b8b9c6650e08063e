"""The service: one source through one detector into the sinks, for months."""
