"""Measurements: each module is a command, and its results are dated with hardware and commit."""
