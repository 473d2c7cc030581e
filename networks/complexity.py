"""Static cost of an operation or a network, known without building it."""

import math
from typing import NamedTuple

LATENCY = "latency_ms"  # the one cost that is not static: measured (`trainers.latency`)


class Complexity(NamedTuple):
    """params: learned scalars. macs: multiply-adds of convolutions and linear layers for one image
    (biases, batch normalisation, activations, pooling and sums are not counted: RandWire spec 1.6).
    activations: elements that convolutions and linear layers write, for one image."""

    params: int = 0
    macs: int = 0
    activations: int = 0

    def plus(self, other: "Complexity") -> "Complexity":
        return Complexity(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def minus(self, other: "Complexity") -> "Complexity":
        return Complexity(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


def total(parts: "list[Complexity]") -> Complexity:
    result = Complexity()
    for part in parts:
        result = result.plus(part)
    return result


def strided(h: int, w: int, stride: int) -> tuple[int, int]:
    """Height and width after a 'same'-padded window with this stride."""
    return -(-h // stride), -(-w // stride)


def conv(
    c_in: int, c_out: int, h: int, w: int, *, kernel: int = 1, stride: int = 1, groups: int = 1
) -> Complexity:
    """A bias-free 'same'-padded k x k convolution on a c_in x h x w image."""
    weights = kernel * kernel * (c_in // groups) * c_out
    positions = math.prod(strided(h, w, stride))
    return Complexity(weights, weights * positions, c_out * positions)


def batch_norm(channels: int) -> Complexity:
    """Affine batch normalisation: scale and shift are parameters, the work is not counted."""
    return Complexity(2 * channels)


def linear(c_in: int, c_out: int, bias: bool = True) -> Complexity:
    """A linear layer; its bias is parameters, and no work."""
    return Complexity(c_in * c_out + bias * c_out, c_in * c_out, c_out)
