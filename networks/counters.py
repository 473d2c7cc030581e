"""Randomness from counters: every draw is a function of (seed, path) and of nothing else.

A path names what the draw is for, for example ``("epoch", 3, "order")``. Two draws with different paths
are independent; the same path gives the same draw in every process, whatever ran before it. No part of
weft touches a global random state.
"""

import hashlib
import random

import torch


def counter_seed(seed: int, *path: int | str) -> int:
    """A 63-bit seed for this path: the head of a SHA-256 over the typed parts."""
    # Slashes inside a part are escaped as in a JSON pointer, so that ("a/s1",) is not ("a", "1").
    parts = (f"{type(part).__name__[0]}{part}" for part in (seed, *path))
    text = "/".join(part.replace("~", "~0").replace("/", "~1") for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def counter_random(seed: int, *path: int | str) -> random.Random:
    """Python's own generator, for discrete structure (graphs, genes): stable over library versions."""
    return random.Random(counter_seed(seed, *path))


def counter_generator(seed: int, *path: int | str) -> torch.Generator:
    """A CPU torch generator, for tensors; draw on the CPU and move, so that devices agree."""
    return torch.Generator().manual_seed(counter_seed(seed, *path))
