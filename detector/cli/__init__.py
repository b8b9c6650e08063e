"""The command line: its commands, and what they print."""

from detector.service.signals import hold_requests

hold_requests()
