"""Make ``python -m detector`` the command ``snn-detect``."""

from detector.cli import main

main()
