"""Blocks of ShuffleNetV2 (1807.11164) as SPOS searches them (1904.00420; released code, spec section 1).

Stride 1: every second channel passes, the others go through the main branch. Stride 2: all channels go
through both the projection and the main branch. Either way the two are concatenated. Middle channels are
half the output's.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from networks.complexity import Complexity, batch_norm, conv, strided, total
from networks.operations import Operation, convolution, register


class Layer(NamedTuple):
    """One convolution with BN, and a ReLU unless it is depthwise."""

    c_in: int
    c_out: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False


def main_layers(c_in: int, c_out: int, kernel: int, stride: int) -> list[Layer]:
    """pw - dw - pw."""
    middle = c_out // 2
    return [
        Layer(c_in, middle),
        Layer(middle, middle, kernel, stride, depthwise=True),
        Layer(middle, c_out - c_in),
    ]


def xception_layers(c_in: int, c_out: int, kernel: int, stride: int) -> list[Layer]:
    """dw - pw - dw - pw - dw - pw."""
    middle = c_out // 2
    return [
        Layer(c_in, c_in, kernel, stride, depthwise=True),
        Layer(c_in, middle),
        Layer(middle, middle, kernel, 1, depthwise=True),
        Layer(middle, middle),
        Layer(middle, middle, kernel, 1, depthwise=True),
        Layer(middle, c_out - c_in),
    ]


def projection_layers(c_in: int, kernel: int) -> list[Layer]:
    """dw with stride 2 - pw."""
    return [Layer(c_in, c_in, kernel, 2, depthwise=True), Layer(c_in, c_in)]


def build_layers(layers: list[Layer]) -> nn.Sequential:
    modules: list[nn.Module] = []
    for c_in, c_out, kernel, stride, depthwise in layers:
        modules += [
            convolution(c_in, c_out, kernel, stride, groups=c_in if depthwise else 1),
            nn.BatchNorm2d(c_out),
        ]
        if not depthwise:
            modules.append(nn.ReLU())
    return nn.Sequential(*modules)


def layers_cost(layers: list[Layer], h: int, w: int) -> Complexity:
    parts = []
    for c_in, c_out, kernel, stride, depthwise in layers:
        groups = c_in if depthwise else 1
        parts += [conv(c_in, c_out, h, w, kernel=kernel, stride=stride, groups=groups), batch_norm(c_out)]
        h, w = strided(h, w, stride)
    return total(parts)


class ShuffleBlock(nn.Module):
    """concat(pass(x), main(x)): N x c_in x H x W -> N x c_out x H/stride x W/stride."""

    def __init__(self, main: nn.Module, projection: nn.Module | None) -> None:
        super().__init__()
        self.main = main
        self.projection = projection

    def forward(self, x: Tensor) -> Tensor:
        if self.projection is not None:
            return torch.cat((self.projection(x), self.main(x)), 1)
        return torch.cat((x[:, 0::2], self.main(x[:, 1::2].contiguous())), 1)


def _register(name: str, kernel: int, xception: bool) -> None:
    branch = xception_layers if xception else main_layers

    def parts(c_in: int, c_out: int, stride: int) -> tuple[list[Layer], list[Layer]]:
        if stride == 1:
            if c_in != c_out or c_in % 2:
                raise ValueError(
                    f"{name} with stride 1 keeps an even number of channels, not {c_in} to {c_out}"
                )
            return branch(c_in // 2, c_out, kernel, 1), []
        if c_out <= c_in:
            raise ValueError(
                f"{name} with stride {stride} needs more channels than {c_in} behind it, not {c_out}"
            )
        return branch(c_in, c_out, kernel, stride), projection_layers(c_in, kernel)

    def build(c_in: int, c_out: int, stride: int) -> nn.Module:
        main, projection = parts(c_in, c_out, stride)
        return ShuffleBlock(build_layers(main), build_layers(projection) if projection else None)

    def complexity(c_in: int, c_out: int, h: int, w: int, stride: int) -> Complexity:
        main, projection = parts(c_in, c_out, stride)
        return layers_cost(main, h, w).plus(layers_cost(projection, h, w))

    register(Operation(name, "O", build, complexity))


_register("shuffle_3x3", 3, xception=False)
_register("shuffle_5x5", 5, xception=False)
_register("shuffle_7x7", 7, xception=False)
_register("shuffle_xception", 3, xception=True)
