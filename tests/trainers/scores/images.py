"""Small images for tests of scores: each class has a smooth picture of its own, seen through noise."""

from pathlib import Path

import numpy as np

from trainers.data import Data, DataSettings, open_data


def write_images(path: Path, images: int = 200, side: int = 16, classes: int = 4) -> Path:
    rng = np.random.default_rng(0)
    pictures = rng.uniform(0, 255, (classes, 4, 4, 3)).repeat(side // 4, 1).repeat(side // 4, 2)
    y = np.arange(images) % classes
    x = pictures[y] + rng.normal(0, 40, (images, side, side, 3))
    np.savez(path, x_train=x.clip(0, 255).astype(np.uint8), y_train=y)
    return path


def small_images(path: Path, **shape: int) -> Data:
    """160 images to train on, 20 for validation, 20 for the test; 3 x 16 x 16 unless `shape` says else."""
    return open_data(DataSettings(name="npz", path=write_images(path, **shape)))
