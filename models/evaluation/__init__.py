"""Evaluation through the streaming pipeline: of clips, of folds, and of events in scenes."""
