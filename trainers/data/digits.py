"""scikit-learn's digits: 1,797 images of 8 x 8, one channel of values 0 to 16, ten classes."""

import numpy as np
import torch

from trainers.data.tensors import Part, Source


def read_digits() -> Source:
    from sklearn.datasets import load_digits  # a second to import, and only this set needs it

    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return Source(tuple(str(name) for name in digits.target_names), {"train": Part(images, labels)})
