"""ZiCo (Li et al., 2301.11300): large gradients that agree from batch to batch."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from networks.errors import UserError
from networks.network import Network
from trainers.scores.score import Bench, check_batches
from trainers.scores.untrained import UntrainedScore, loss_gradients


@dataclass(frozen=True)
class ZiCo(UntrainedScore):
    """sum over layers of log sum_w mean_b |g| / std_b(g), over `batches` batches b of different images
    (released code: 2); std is the population's. Weights with the same gradient in every batch are left out,
    and so are layers that have no others.

    `UserError` where the training split has fewer batches than that.
    """

    name: ClassVar[str] = "zico"
    batches: int = 2

    def __post_init__(self) -> None:
        if self.batches < 2:
            raise UserError("batches", self.batches, "2 or more: one batch has no deviation")

    @property
    def needs_batches(self) -> int:
        return self.batches

    def measure(self, bench: Bench, network: Network) -> float:
        check_batches(self, bench.data, bench.batch_size)
        gradients = [
            [g for _, g in loss_gradients(network, bench.batch(number))] for number in range(self.batches)
        ]
        return inverse_variation([torch.stack(layer) for layer in zip(*gradients, strict=True)])


def inverse_variation(layers: list[Tensor]) -> float:
    """sum over layers of log sum_w mean_b |g| / std_b(g); each layer is batches x its weights' shape.
    NaN where no weight of any layer varies."""
    total, seen = 0.0, False
    for layer in layers:
        gradients = layer.double().flatten(1)
        deviation = gradients.std(0, correction=0)
        varies = deviation > 0
        if bool(varies.any()):
            ratios = gradients.abs().mean(0)[varies] / deviation[varies]
            total, seen = total + float(ratios.sum().log()), True
    return total if seen else torch.nan
