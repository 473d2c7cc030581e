"""How long a network takes for one batch: measured, so it differs from run to run and between machines."""

import statistics
import time

import torch
from torch import nn

from networks.architecture import Shape

WARM_UP, REPEATS = 3, 11


@torch.no_grad()
def latency_ms(network: nn.Module, image: Shape, batch_size: int = 1, device: str = "cpu") -> float:
    """Median milliseconds of an inference pass of the whole network over `batch_size` images."""
    network = network.to(device).eval()
    x = torch.zeros(batch_size, *image, device=device)
    taken = []
    for _ in range(WARM_UP + REPEATS):
        _wait(device)
        started = time.perf_counter()
        network(x)
        _wait(device)
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken[WARM_UP:])


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)
