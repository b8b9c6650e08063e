"""Recordings for training and evaluation: data sets and their layouts, AudioSet, clips collected from packages."""
