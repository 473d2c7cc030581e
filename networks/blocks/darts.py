"""Operations of cells with two inputs: DARTS (1806.09055), NASNet, AmoebaNet, ENAS, NAO (NAT spec 1.3).

Cells project their inputs first, so that in them an operation halves the size or keeps it, and never changes
the width. Padding does not count in pooling. While a supernet is searched pooling is normalised (names that
begin with ``darts_``), and in the network that is built of what was found it is not.
"""

from typing import Any

import torch
from torch import Tensor, nn

from networks.complexity import Complexity, batch_norm, conv, strided, total
from networks.operations import Operation, PreActivated, convolution, register, separable, separable_cost


class FactorizedReduction(nn.Module):
    """Two 1x1 convolutions of stride 2, one of them on the image moved by a pixel, side by side."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.straight = nn.Conv2d(c_in, c_out - c_out // 2, 1, 2, bias=False)
        self.moved = nn.Conv2d(c_in, c_out // 2, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # The released code needs even sizes; an odd one has one column less to start from.
        moved = nn.functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))[:, :, 1:, 1:]
        return torch.cat((self.straight(x), self.moved(moved)), 1)


def _factorized(c_in: int, c_out: int, stride: int) -> nn.Module:
    """ReLU, the reduction (at stride 1 a plain 1x1 convolution), BN."""
    whole = convolution(c_in, c_out) if stride == 1 else FactorizedReduction(c_in, c_out)
    return PreActivated(whole, nn.BatchNorm2d(c_out))


def _factorized_cost(c_in: int, c_out: int, h: int, w: int, stride: int) -> Complexity:
    # Both halves together have the weights and the work of one convolution.
    return conv(c_in, c_out, h, w, stride=stride).plus(batch_norm(c_out))


register(Operation("triplet_factorized_1x1", "O", _factorized, _factorized_cost))


def _build_skip(c_in: int, c_out: int, stride: int) -> nn.Module:
    return nn.Identity() if (c_in, stride) == (c_out, 1) else _factorized(c_in, c_out, stride)


def _skip_cost(c_in: int, c_out: int, h: int, w: int, stride: int) -> Complexity:
    return Complexity() if (c_in, stride) == (c_out, 1) else _factorized_cost(c_in, c_out, h, w, stride)


register(Operation("darts_skip", "S", _build_skip, _skip_cost))


def _pool(kind: str, size: int, stride: int) -> list[nn.Module]:
    """'Same'-padded. A window of two, which released cells have at stride 2 only, begins at its pixel: at
    stride 1 it sees the last row and column twice."""
    shape: dict[str, Any] = {"stride": stride, "padding": size // 2}
    repeated: list[nn.Module] = []
    if size % 2 == 0:
        shape = {"stride": stride, "ceil_mode": True}
        repeated = [nn.ReplicationPad2d((0, 1, 0, 1))] if stride == 1 else []
    if kind == "max":
        return [*repeated, nn.MaxPool2d(size, **shape)]
    return [*repeated, nn.AvgPool2d(size, **shape, count_include_pad=False)]


def _pooling(name: str, kind: str, size: int, *, normalised: bool) -> None:
    """Pooling, a 1x1 convolution where the width changes (in cells it never does), BN."""

    def build(c_in: int, c_out: int, stride: int) -> nn.Module:
        modules = _pool(kind, size, stride)
        if c_in != c_out:
            modules.append(convolution(c_in, c_out))
        if normalised:
            modules.append(nn.BatchNorm2d(c_out))
        return modules[0] if len(modules) == 1 else nn.Sequential(*modules)

    def cost(c_in: int, c_out: int, h: int, w: int, stride: int) -> Complexity:
        widening = Complexity() if c_in == c_out else conv(c_in, c_out, *strided(h, w, stride))
        return widening.plus(batch_norm(c_out)) if normalised else widening

    register(Operation(name, "O", build, cost))


for _kind in ("max", "avg"):
    for _size in (2, 3, 5):
        _pooling(f"{_kind}_pool_{_size}x{_size}", _kind, _size, normalised=False)
        _pooling(f"darts_{_kind}_pool_{_size}x{_size}", _kind, _size, normalised=True)


def _separable(name: str, kernel: int) -> None:
    """ReLU, depthwise, pointwise, BN, twice; the first with the stride."""

    def build(c_in: int, c_out: int, stride: int) -> nn.Module:
        return PreActivated(
            *separable(c_in, c_in, stride, kernel), nn.BatchNorm2d(c_in), nn.ReLU(),
            *separable(c_in, c_out, 1, kernel), nn.BatchNorm2d(c_out),
        )  # fmt: skip

    def cost(c_in: int, c_out: int, h: int, w: int, stride: int) -> Complexity:
        small = strided(h, w, stride)
        first, second = (
            separable_cost(c_in, c_in, h, w, stride, kernel),
            separable_cost(c_in, c_out, *small, 1, kernel),
        )
        return total([first, batch_norm(c_in), second, batch_norm(c_out)])

    register(Operation(name, "O", build, cost))


def _dilated(name: str, kernel: int) -> None:
    """ReLU, depthwise with every second pixel, pointwise, BN."""

    def build(c_in: int, c_out: int, stride: int) -> nn.Module:
        reach = kernel - 1  # on either side: dilation 2
        wide = nn.Conv2d(c_in, c_in, kernel, stride, reach, dilation=2, groups=c_in, bias=False)
        return PreActivated(wide, convolution(c_in, c_out), nn.BatchNorm2d(c_out))

    def cost(c_in: int, c_out: int, h: int, w: int, stride: int) -> Complexity:
        return separable_cost(c_in, c_out, h, w, stride, kernel).plus(batch_norm(c_out))

    register(Operation(name, "O", build, cost))


def _spatially_separable(name: str, kernel: int) -> None:
    """ReLU, a row of the kernel, a column of it, BN; each has the stride along its own direction."""

    def build(c_in: int, c_out: int, stride: int) -> nn.Module:
        reach = kernel // 2
        row = nn.Conv2d(c_in, c_out, (1, kernel), (1, stride), (0, reach), bias=False)
        column = nn.Conv2d(c_out, c_out, (kernel, 1), (stride, 1), (reach, 0), bias=False)
        return PreActivated(row, column, nn.BatchNorm2d(c_out))

    def cost(c_in: int, c_out: int, h: int, w: int, stride: int) -> Complexity:
        small = strided(h, w, stride)
        parts = [batch_norm(c_out)]
        for width, positions in ((c_in, h * small[1]), (c_out, small[0] * small[1])):
            weights = kernel * width * c_out
            parts.append(Complexity(weights, weights * positions, c_out * positions))
        return total(parts)

    register(Operation(name, "O", build, cost))


for _size in (3, 5, 7):
    _separable(f"darts_sep_conv_{_size}x{_size}", _size)
for _size in (3, 5):
    _dilated(f"darts_dil_conv_{_size}x{_size}", _size)
for _size in (3, 7):
    _spatially_separable(f"triplet_conv_1x{_size}_{_size}x1", _size)
