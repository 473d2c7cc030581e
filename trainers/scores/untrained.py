"""What the zero-cost scores share: they look at a candidate's own network before any training.

The network is new at every call, with weights from the bench's seed, in training mode: batch normalisation
uses the statistics of the batch. So nothing has to be restored, and no score depends on another.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.liveness import WORST, is_dead
from networks.network import Network
from networks.spaces.choices import ChoiceSpace
from networks.spaces.space import Genes
from trainers.data import Batch
from trainers.scores.score import Bench

Weighted = nn.Conv2d | nn.Linear


class UntrainedScore(ABC):
    """Who inherits measures a network. A dead candidate, and one whose measure is no finite number, gets
    `WORST`."""

    name: ClassVar[str]
    needs_supernet: ClassVar[bool] = False

    @property
    def needs_batches(self) -> int:
        return 1

    def supports(self, space: ChoiceSpace) -> bool:
        return True

    @torch.enable_grad()
    def __call__(self, bench: Bench, genes: Genes) -> float:
        network = bench.network(genes)
        if is_dead(network.architecture):
            return WORST
        value = self.measure(bench, network)
        return value if math.isfinite(value) else WORST

    @abstractmethod
    def measure(self, bench: Bench, network: Network) -> float:
        """Of a live network, which may be changed. May be infinite or NaN."""


def weighted_layers(network: nn.Module) -> list[Weighted]:
    """Convolutions and linear layers: those whose weights the zero-cost scores read."""
    return [module for module in network.modules() if isinstance(module, Weighted)]


def loss_gradients(network: nn.Module, batch: Batch, *, again: bool = False) -> list[tuple[Tensor, Tensor]]:
    """(weight, gradient of the mean cross entropy of one batch) of each weighted layer that the network
    runs; a dead branch is not run. No `grad` is set. `again`: the gradients can be differentiated."""
    x, y = batch
    weights = [layer.weight for layer in weighted_layers(network)]
    loss = F.cross_entropy(network(x), y)
    gradients = torch.autograd.grad(loss, weights, create_graph=again, allow_unused=True)
    return [
        (weight, gradient)
        for weight, gradient in zip(weights, gradients, strict=True)
        if gradient is not None
    ]
