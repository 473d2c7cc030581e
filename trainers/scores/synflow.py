"""SynFlow (Tanaka et al., 2006.05467): how much of every weight gets through the network. No data."""

import torch
from torch import Tensor, nn

from networks.network import Network
from trainers.scores.score import Bench
from trainers.scores.untrained import UntrainedScore, weighted_layers


class SynFlow(UntrainedScore):
    """log sum |w dR/dw|, R the sum of the logits for an image of ones, all parameters |.|, without batch
    normalisation, in float64 (spec section 4). The sum grows as a product over the layers; its logarithm
    ranks alike and stays small.

    Nothing is negative then, so a ReLU does nothing; the bound of a ReLU6, which would stop all flow, is
    lifted. Nothing gets through a dead candidate: `WORST`.
    """

    name = "synflow"

    @property
    def needs_batches(self) -> int:
        return 0

    def measure(self, bench: Bench, network: Network) -> float:
        image = torch.ones(1, *bench.space.template.image, dtype=torch.float64, device=bench.device)
        return float(synaptic_flow(linearised(network), image).log())


@torch.no_grad()
def linearised(network: Network) -> Network:
    """The network itself, changed: float64, parameters |.|, neither batch normalisation nor ReLU6."""
    network.double()
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d | nn.ReLU6):
                setattr(parent, name, nn.Identity())
    for parameter in network.parameters():
        parameter.abs_()
    return network


def synaptic_flow(network: nn.Module, image: Tensor) -> Tensor:
    """sum |w dR/dw| over the weights of convolutions and linear layers, R = sum of network(image)."""
    weights = [layer.weight for layer in weighted_layers(network)]
    gradients = torch.autograd.grad(network(image).sum(), weights, allow_unused=True)
    terms = [(w * g).detach().abs().sum() for w, g in zip(weights, gradients, strict=True) if g is not None]
    return torch.stack(terms).sum()
