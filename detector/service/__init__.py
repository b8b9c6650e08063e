"""The service: one source, one detector and the sinks, in continuous operation."""
