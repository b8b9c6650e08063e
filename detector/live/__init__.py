"""Listening as it goes on for months: from a live source to records, and on to the sinks."""
