"""Events in SQLite: written by the service, read by ``snn-detect events`` meanwhile."""
