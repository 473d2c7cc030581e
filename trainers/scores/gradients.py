"""Scores from the gradients of one batch's cross entropy, as in "Zero-cost proxies for lightweight NAS"
(Abdelfattah et al., 2101.08134; spec section 4). Sums run over the weights w of convolutions and linear
layers, without biases; g is the gradient of the loss, H its second derivative."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.network import Network
from trainers.data import Batch
from trainers.scores.score import Bench
from trainers.scores.untrained import UntrainedScore, loss_gradients, weighted_layers


class GradNorm(UntrainedScore):
    """sum over layers of |g|_2."""

    name = "grad_norm"

    def measure(self, bench: Bench, network: Network) -> float:
        return sum(float(g.double().norm()) for _, g in loss_gradients(network, bench.batch(0)))


class Snip(UntrainedScore):
    """sum |w g| = sum |dL/dm|, m a mask of ones on the weights (Lee et al., 1810.02340)."""

    name = "snip"

    def measure(self, bench: Bench, network: Network) -> float:
        pairs = loss_gradients(network, bench.batch(0))
        return sum(float((w.detach() * g).double().abs().sum()) for w, g in pairs)


class Grasp(UntrainedScore):
    """-sum w (H g) (Wang et al., 2002.07376), by differentiating <g, constant g>."""

    name = "grasp"

    def measure(self, bench: Bench, network: Network) -> float:
        pairs = loss_gradients(network, bench.batch(0), again=True)
        weights = [w for w, _ in pairs]
        product = torch.stack([(g * g.detach()).sum() for _, g in pairs]).sum()
        curved = torch.autograd.grad(product, weights, allow_unused=True)
        seconds = [(w.detach(), h) for w, h in zip(weights, curved, strict=True) if h is not None]
        return -sum(float((w * h).double().sum()) for w, h in seconds)


class Fisher(UntrainedScore):
    """sum over layers and output channels of 0.5 mean_n (sum_hw a dL/da)^2, a the layer's output, each
    channel counted once for every weight that it has (Theis et al., 1801.05787; Turner et al., 1906.04113).
    """

    name = "fisher"

    def measure(self, bench: Bench, network: Network) -> float:
        return fisher_information(network, bench.batch(0))


def fisher_information(network: nn.Module, batch: Batch) -> float:
    """See `Fisher`."""
    written: list[tuple[Tensor, int]] = []  # a layer's output, its weights a channel

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        written.append((output, weight[0].numel()))

    hooks = [layer.register_forward_hook(keep) for layer in weighted_layers(network)]
    try:
        x, y = batch
        loss = F.cross_entropy(network(x), y)
    finally:
        for hook in hooks:
            hook.remove()
    gradients = torch.autograd.grad(loss, [output for output, _ in written], allow_unused=True)
    total = 0.0
    for (output, weights), gradient in zip(written, gradients, strict=True):
        if gradient is not None:
            product = (output.detach() * gradient).double()
            per_channel = product.reshape(*product.shape[:2], -1).sum(2)
            total += weights * float(per_channel.square().mean(0).sum()) / 2
    return total
