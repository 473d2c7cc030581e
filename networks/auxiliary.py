"""The auxiliary head: a second classifier on an earlier stage, that helps a deep network of cells to be
trained and is thrown away afterwards (GoogLeNet, 1409.4842; DARTS, 1806.09055; NAT spec section 9)."""

import torch
from torch import Tensor, nn

from networks.architecture import Architecture, Shape
from networks.complexity import Complexity, batch_norm, linear, total
from networks.errors import UserError
from networks.network import initialise

WINDOW, PLACES = 5, 2  # windows of the pool, of which two fit in height and in width
SMALLEST, LARGEST = WINDOW + 1, 2 * WINDOW  # sizes at which they do, and leave no pixel out
NARROW, WIDE = 128, 768


class AuxiliaryHead(nn.Module):
    """ReLU, 5x5 average pool to 2x2, 1x1 conv-BN-ReLU, 2x2 conv-BN-ReLU, linear, on the output of the last
    stage that halves the size: N x C x H x W -> N x classes.

    Behind an ImageNet stem the second convolution has no BN, as in DARTS's release. Raises `UserError` where
    that stage's output is not 6 to 10 wide and high, or no stage halves.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        entry = auxiliary_entry(architecture)
        normalised = _normalised(architecture)
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(WINDOW, (entry.h - WINDOW, entry.w - WINDOW)),
            nn.Conv2d(entry.c, NARROW, 1, bias=False),
            nn.BatchNorm2d(NARROW),
            nn.ReLU(),
            nn.Conv2d(NARROW, WIDE, PLACES, bias=False),
            nn.BatchNorm2d(WIDE) if normalised else nn.Identity(),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(WIDE, architecture.classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def _normalised(architecture: Architecture) -> bool:
    return architecture.stem.kind == "cifar"


def auxiliary_stage(architecture: Architecture) -> int:
    """The position of the stage that it reads."""
    halving = [position for position, stage in enumerate(architecture.stages) if stage.stride > 1]
    if not halving:
        raise UserError("auxiliary", "above 0", "0 for a network in which no stage halves the size")
    return halving[-1]


def auxiliary_entry(architecture: Architecture) -> Shape:
    """What it reads of one image."""
    entry = architecture.stage_shapes()[auxiliary_stage(architecture) + 1]
    if not (min(entry[1:]) >= SMALLEST and max(entry[1:]) <= LARGEST):
        fix = f"The last stage that halves puts out {entry.h}x{entry.w}."
        raise UserError(
            "auxiliary", "above 0", f"0, unless that stage puts out {SMALLEST} to {LARGEST} pixels", fix
        )
    return entry


def auxiliary_complexity(architecture: Architecture) -> Complexity:
    """Of the head alone: parameters, and no work, since it is not there when the network is used."""
    entry = auxiliary_entry(architecture)
    convolutions = Complexity(NARROW * entry.c + NARROW * WIDE * PLACES**2)
    norms = [batch_norm(NARROW), *([batch_norm(WIDE)] if _normalised(architecture) else [])]
    whole = total([convolutions, *norms, linear(WIDE, architecture.classes)])
    return Complexity(params=whole.params)


def build_auxiliary(architecture: Architecture, seed: int) -> AuxiliaryHead:
    """The initialised head, on the CPU, in float32."""
    with torch.device("meta"):
        head = AuxiliaryHead(architecture)
    head.to_empty(device="cpu")
    initialise(nn.ModuleDict({"auxiliary": head}), seed)  # names of its own: other draws than the network's
    return head
