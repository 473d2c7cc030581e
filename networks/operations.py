"""The registry of operations: what a node or an edge may do to a tensor.

An operation is registered once, with a builder and a static complexity; the same entry serves spaces,
networks, descriptions and tests. Tensors are N x C x H x W throughout.

A *triplet* is RandWire's ReLU -> convolution -> batch normalisation (1904.01569; spec 1.4 and 1.7).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from networks.complexity import Complexity, batch_norm, conv, strided, total
from networks.errors import UserError, nearest

Category = Literal["O", "S", "N"]


class Builder(Protocol):
    def __call__(self, c_in: int, c_out: int, stride: int) -> nn.Module: ...


class CostRule(Protocol):
    def __call__(self, c_in: int, c_out: int, h: int, w: int, stride: int) -> Complexity: ...


@dataclass(frozen=True)
class Operation:
    """A named transform. `category` is NAT's: O computes, S is a skip connection, N is no connection.

    `resizes` is false for an operation that must keep channels and size (identity, none).
    """

    name: str
    category: Category
    build: Builder
    complexity: CostRule
    resizes: bool = True


OPERATIONS: dict[str, Operation] = {}


def register(operation: Operation) -> Operation:
    if operation.name in OPERATIONS:
        raise ValueError(f"operation {operation.name!r} is registered twice")
    OPERATIONS[operation.name] = operation
    return operation


def find_operation(name: str, field: str = "operation") -> Operation:
    """The registered operation, or a `UserError` that names `field` and the nearest known name."""
    if name not in OPERATIONS:
        raise UserError(field, name, ", ".join(sorted(OPERATIONS)), nearest(name, OPERATIONS))
    return OPERATIONS[name]


class PreActivated(nn.Module):
    """f(x) = body(relu(x)).

    Executors look for this class: they apply the ReLU themselves, in place on a sum they own or once for
    all the nodes that read the same tensor, and then call `body`.
    """

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(F.relu(x))


def convolution(c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A bias-free 'same'-padded convolution."""
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)


def separable(c_in: int, c_out: int, stride: int = 1, kernel: int = 3) -> list[nn.Module]:
    """Depthwise then pointwise, nothing between them (RandWire spec 1.4)."""
    return [convolution(c_in, c_in, kernel, stride, groups=c_in), convolution(c_in, c_out)]


def separable_cost(c_in: int, c_out: int, h: int, w: int, stride: int, kernel: int = 3) -> Complexity:
    depthwise = conv(c_in, c_in, h, w, kernel=kernel, stride=stride, groups=c_in)
    return depthwise.plus(conv(c_in, c_out, *strided(h, w, stride)))


def _triplet(name: str, layers: Callable[[int, int, int], list[nn.Module]], cost: CostRule) -> Operation:
    """ReLU -> layers -> BN, as one registered operation."""

    def build(c_in: int, c_out: int, stride: int) -> nn.Module:
        return PreActivated(*layers(c_in, c_out, stride), nn.BatchNorm2d(c_out))

    def complexity(c_in: int, c_out: int, h: int, w: int, stride: int) -> Complexity:
        return total([cost(c_in, c_out, h, w, stride), batch_norm(c_out)])

    return register(Operation(name, "O", build, complexity))


def _pooled_cost(c_in: int, c_out: int, h: int, w: int, stride: int) -> Complexity:
    return conv(c_in, c_out, *strided(h, w, stride))


def _unresized(name: str, c_in: int, c_out: int, stride: int) -> None:
    if c_in != c_out or stride != 1:
        raise ValueError(
            f"{name} keeps channels and size; it cannot map {c_in} to {c_out} with stride {stride}"
        )


class Zero(nn.Module):
    """f(x) = 0, with x's shape."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0


def _build_identity(c_in: int, c_out: int, stride: int) -> nn.Module:
    _unresized("identity", c_in, c_out, stride)
    return nn.Identity()


def _build_none(c_in: int, c_out: int, stride: int) -> nn.Module:
    _unresized("none", c_in, c_out, stride)
    return Zero()


def _free(c_in: int, c_out: int, h: int, w: int, stride: int) -> Complexity:
    return Complexity()


register(Operation("identity", "S", _build_identity, _free, resizes=False))
register(Operation("none", "N", _build_none, _free, resizes=False))

_triplet("triplet_sep_conv_3x3", separable, separable_cost)
_triplet(
    "triplet_conv_1x1",
    lambda c_in, c_out, stride: [convolution(c_in, c_out, 1, stride)],
    lambda c_in, c_out, h, w, stride: conv(c_in, c_out, h, w, stride=stride),
)
_triplet(
    "triplet_conv_3x3",
    lambda c_in, c_out, stride: [convolution(c_in, c_out, 3, stride)],
    lambda c_in, c_out, h, w, stride: conv(c_in, c_out, h, w, kernel=3, stride=stride),
)
_triplet(
    "triplet_conv_5x5",
    lambda c_in, c_out, stride: [convolution(c_in, c_out, 5, stride)],
    lambda c_in, c_out, h, w, stride: conv(c_in, c_out, h, w, kernel=5, stride=stride),
)
_triplet(
    "triplet_max_pool_3x3",
    lambda c_in, c_out, stride: [nn.MaxPool2d(3, stride, 1), convolution(c_in, c_out)],
    _pooled_cost,
)
_triplet(
    "triplet_avg_pool_3x3",
    lambda c_in, c_out, stride: [
        nn.AvgPool2d(3, stride, 1, count_include_pad=False),
        convolution(c_in, c_out),
    ],
    _pooled_cost,
)

register(
    # A part of a 1x1 convolution that reads several outputs side by side (networks/topologies.py).
    Operation(
        "relu_conv_1x1",
        "O",
        lambda c_in, c_out, stride: PreActivated(convolution(c_in, c_out, 1, stride)),
        lambda c_in, c_out, h, w, stride: conv(c_in, c_out, h, w, stride=stride),
    )
)
register(
    # The shortcut of NAS-Bench-201's reduction block: no BN and no bias. It is exact on even sizes.
    Operation(
        "avg_pool_2x2_conv_1x1",
        "O",
        lambda c_in, c_out, stride: nn.Sequential(
            nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False), convolution(c_in, c_out)
        ),
        _pooled_cost,
    )
)
