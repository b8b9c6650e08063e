"""The command line ``snn-detect``: a file a command."""
