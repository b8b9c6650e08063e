"""Calibration to a place: the scores of its own sound, what every threshold would report of it, and a choice."""
