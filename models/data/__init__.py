"""Recordings to train and to evaluate with: data sets, their layouts, and clips collected from packages."""
