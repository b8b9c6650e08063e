"""Make ``python -m detector`` the command ``snn-detect``."""

from detector.cli.main import main

main()
