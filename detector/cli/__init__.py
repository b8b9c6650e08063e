"""The command line: its commands, and what they print."""

from detector.service.process import hold_requests

hold_requests()
