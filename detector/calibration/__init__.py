"""Calibration: scores of background sound, false alarms at every threshold, and the choice of thresholds."""
