"""The command line ``snn-train``."""
