"""Data sets: where images come from, how they are split, and how batches are drawn."""
