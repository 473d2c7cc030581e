"""Zen-score (Lin et al., 2102.01063): how much a random network's features react to its input. No data."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from networks.counters import counter_generator
from networks.errors import UserError
from networks.network import Network
from trainers.scores.score import Bench
from trainers.scores.untrained import UntrainedScore, weighted_layers

STEP = 0.01  # the perturbation's size


@dataclass(frozen=True)
class Zen(UntrainedScore):
    """log E |f(x) - f(x + 0.01 e)|_1 + sum over batch normalisations of log sqrt(mean_c s_c^2).

    f: the features before the global pooling. x, e and all weights are N(0, 1), drawn anew `repeats` times
    from the bench's seed; s_c^2 is what normalisation divides out of channel c. A normalisation that reads
    only zeros carries nothing and is left out. Residual connections stay, unlike in the paper.
    """

    name: ClassVar[str] = "zen"
    repeats: int = 4

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UserError("repeats", self.repeats, "1 or more")

    @property
    def needs_batches(self) -> int:
        return 0

    def measure(self, bench: Bench, network: Network) -> float:
        shape = (bench.batch_size, *bench.space.template.image)
        scores = []
        for repeat in range(self.repeats):
            draws = counter_generator(bench.seed, "zen", repeat)
            gaussian_weights(network, draws)
            x, e = (torch.randn(shape, generator=draws).to(bench.device) for _ in range(2))
            scores.append(zen_score(network, x, x + STEP * e))
        return sum(scores) / len(scores)


@torch.no_grad()
def gaussian_weights(network: nn.Module, draws: torch.Generator) -> None:
    """Weights of convolutions and linear layers from N(0, 1), in place."""
    for layer in weighted_layers(network):
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=draws))


@torch.no_grad()
def zen_score(network: Network, x: Tensor, moved: Tensor) -> float:
    """Of one pair of batches (N x C x H x W); variances are those of x."""
    deviations: list[Tensor] = []

    def measure(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        variance = inputs[0].double().var((0, 2, 3), correction=0).mean()
        if variance > 0:
            deviations.append(variance.log() / 2)

    with features(network) as seen:
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        hooks = [module.register_forward_pre_hook(measure) for module in norms]
        try:
            network(x)
        finally:
            for hook in hooks:
                hook.remove()
        network(moved)
    change = (seen[0] - seen[1]).double().flatten(1).abs().sum(1).mean()
    return float(change.log() + sum(deviations))


@contextmanager
def features(network: Network) -> Iterator[list[Tensor]]:
    """What the head pools, of each pass inside the block."""
    seen: list[Tensor] = []
    hook = network.head.expand.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        yield seen
    finally:
        hook.remove()
