"""Diagnosis of the installation: checks, each with its result and advice."""
