"""Folding batch normalisation into the convolutions before it, for inference."""

import copy

import torch
from torch import nn

from networks.network import Network


def fold_batch_norm(network: Network) -> Network:
    """A copy of the network, in eval mode, that computes the same without batch normalisation.

    BN(conv(x)) = conv(x; W gamma / s) + (b - mean) gamma / s + beta with s = sqrt(variance + eps), on the
    running statistics. Every batch normalisation that follows a convolution is folded, in stem, stages and
    head: in a separable triplet that is the pointwise one. One after a pooling stays. The copy's state_dict
    has other keys, and its parameters want no gradients; the network itself is left as it is.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    for module in list(folded.modules()):
        if isinstance(module, nn.Sequential):
            _fold_pairs(module)
    return folded


def _fold_pairs(layers: nn.Sequential) -> None:
    for position in reversed(range(1, len(layers))):
        before, after = layers[position - 1], layers[position]
        if isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
            layers[position - 1] = folded_convolution(before, after)
            del layers[position]


@torch.no_grad()
def folded_convolution(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """norm(conv(x)) of eval mode as one convolution with a bias."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch normalisation without running statistics cannot be folded")
    folded = copy.deepcopy(conv)
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    shift = shift * scale
    if norm.affine:
        shift = shift + norm.bias
    folded.weight.mul_(scale.reshape(-1, 1, 1, 1))
    folded.bias = nn.Parameter(shift, requires_grad=False)
    return folded
