"""The command line ``snn-detect``, a module for each command."""
