"""Data sets: where images come from, how they are split, and how batches are drawn."""

from trainers.data.data import Batch, Data, ReadsAhead, Relabelled, Split
from trainers.data.open import check_settings, open_data
from trainers.data.selecting import Selecting
from trainers.data.settings import Augment, DataSettings

__all__ = [
    "Augment", "Batch", "Data", "DataSettings", "ReadsAhead", "Relabelled", "Selecting", "Split",
    "check_settings", "open_data",
]  # fmt: skip
