"""The learning rate as a pure function of the step."""

import math


def linear_rate(step: int, total: int, base: float) -> float:
    """A straight line from `base` at step 0 to 0 at step `total` (SPOS, spec section 1), and 0 after it."""
    return base * max(0.0, 1 - step / max(1, total))


def cosine_rate(step: int, total: int, base: float, warmup: int = 0) -> float:
    """Linear warm-up over `warmup` steps, then half a cosine from `base` to 0 over the rest.

    step counts from 0. The rate of the last step is above 0; step `total` would be 0, and so would those
    after it. (SGDR without restarts; RandWire spec 1.8.)
    """
    if step < warmup:
        return base * (step + 1) / warmup
    return base * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))
