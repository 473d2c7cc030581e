"""The torch module of one architecture."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import get_args

import torch
from torch import Tensor, nn

from networks.architecture import VGG_POOL, Architecture, HeadKind
from networks.counters import counter_generator
from networks.errors import UserError
from networks.operations import PreActivated, convolution
from networks.stage import Executor, GraphStage, StageModule


class Stem(nn.Sequential):
    """Dense convolutions with BN or a bias, a ReLU between one and the next (RandWire spec 1.5)."""

    def __init__(self, architecture: Architecture) -> None:
        layers: list[nn.Module] = []
        c = architecture.image.c
        for c_out, stride, kernel, normalised in architecture.stem.convolutions:
            if layers:
                layers.append(nn.ReLU())
            if normalised:
                layers += [convolution(c, c_out, kernel, stride), nn.BatchNorm2d(c_out)]
            else:
                layers.append(nn.Conv2d(c, c_out, kernel, stride, kernel // 2))
            c = c_out
        if architecture.stem.pools:
            layers += [nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        elif architecture.stem.relu:
            layers.append(nn.ReLU())
        super().__init__(*layers)


class Head(nn.Module):
    """linear(dropout(pool(expand(x)))): N x C x H x W -> N x classes; `expand` by the head's kind. Where it
    gives vectors nothing is pooled."""

    def __init__(self, architecture: Architecture, c_in: int) -> None:
        super().__init__()
        self.dropout = architecture.head.dropout
        head = architecture.head
        self.expand, width = expansion(head.kind, c_in, head.channels)
        self.classifier = nn.Linear(width, architecture.classes, bias=head.bias)
        self.draws: torch.Generator | None = None

    def draw(self, seed: int, *path: int | str) -> None:
        """What dropout drops in the next training pass is drawn from (seed, path)."""
        if self.dropout:
            self.draws = counter_generator(seed, *path, "dropout")

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(x)
        x = x.mean((2, 3)) if x.ndim == 4 else x
        if self.training and self.dropout:
            if self.draws is None:
                raise RuntimeError("a network with dropout is trained after new_step(seed, step)")
            kept = torch.rand(x.shape, generator=self.draws) >= self.dropout
            x = x * kept.to(x.device, x.dtype) / (1 - self.dropout)
        return self.classifier(x)


def expansion(kind: HeadKind, c_in: int, channels: int | None) -> tuple[nn.Module, int]:
    """What a head does before it pools, and the channels that it pools."""
    if kind == "bn_relu":
        return nn.Sequential(nn.BatchNorm2d(c_in), nn.ReLU()), c_in
    if kind == "relu":
        return nn.ReLU(), c_in
    if kind == "vgg" and channels is not None:
        return nn.Sequential(
            nn.ReLU(), nn.MaxPool2d(2, 2, ceil_mode=True), nn.AdaptiveAvgPool2d(VGG_POOL), nn.Flatten(),
            nn.Linear(c_in * VGG_POOL**2, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(),
        ), channels  # fmt: skip
    if kind == "plain" or channels is None:
        return nn.Identity(), c_in
    layers = (convolution(c_in, channels), nn.BatchNorm2d(channels))
    if kind == "conv_relu":
        return nn.Sequential(*layers, nn.ReLU()), channels
    return PreActivated(*layers), channels


class Network(nn.Module):
    """stem -> stages -> head: N x C x H x W images to N x classes logits.

    Weights are uninitialised memory until `initialise` (or `load_state_dict`) has run: see `build_network`.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        shapes = architecture.stage_shapes()
        self.stem = Stem(architecture)
        self.stages = nn.ModuleList(
            GraphStage(architecture.graph(position), stage, *architecture.entries(position, shapes))
            for position, stage in enumerate(architecture.stages)
        )
        self.head = Head(architecture, shapes[-1].c)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(through(self.stem(x), self.graph_stages))

    def with_output_of(self, position: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, and what the stage at this position puts out on the way."""
        outputs = list(walked(self.stem(x), self.graph_stages))
        return self.head(outputs[-1]), outputs[position]

    @property
    def graph_stages(self) -> list[GraphStage]:
        return [stage for stage in self.stages if isinstance(stage, GraphStage)]

    def set_executor(self, executor: Executor) -> None:
        """How the stages are run when a backward pass is to follow.

        whole_stage (the default): each stage as one autograd function; fast and lean, for first-order
        gradients, once. autograd: differentiable operations one by one; for gradients of gradients,
        torch.export and torch.compile, and functorch. modules: as autograd, and every operation is called
        as a module, so that hooks see its own ReLU. Without gradients, whole_stage runs in place.
        """
        if executor not in get_args(Executor):
            raise UserError("executor", executor, " or ".join(get_args(Executor)))
        for stage in self.graph_stages:
            stage.executor = executor

    def set_path_drop(self, probability: float) -> None:
        """With which probability training passes drop the output of an operation in a cell for an image
        (drop-path)."""
        for stage in self.graph_stages:
            stage.path_drop = probability if stage.graph.is_cell else 0.0

    def new_step(self, seed: int, step: int) -> None:
        """Draw what the next training pass drops (edges, paths, features) from (seed, step)."""
        for position, stage in enumerate(self.graph_stages):
            if stage.stage.edge_drop:
                stage.draw_edge_drop(seed, step, "stage", position)
            if stage.path_drop:
                stage.draw_path_drop(seed, step, "stage", position)
        self.head.draw(seed, step)


def through(x: Tensor, stages: Iterable[StageModule], *chosen: Iterable[object]) -> Tensor:
    """What the last of the stages puts out; see `walked`."""
    return deque(walked(x, stages, *chosen), maxlen=1).pop()  # which holds no output longer than needed


def walked(x: Tensor, stages: Iterable[StageModule], *chosen: Iterable[object]) -> Iterator[Tensor]:
    """The output of one stage after the other, each on the output of the one before; those with two inputs on
    the one before that too. `chosen`: what else each is called with."""
    before = x
    for stage, *more in zip(stages, *chosen, strict=True):
        inputs = (before, x) if len(stage.entries) == 2 else (x,)
        before, x = x, stage(*inputs, *more)
        yield x


@torch.no_grad()
def initialise(network: nn.Module, seed: int) -> None:
    """Set every parameter and buffer from (seed, its name).

    Convolutions: normal, deviation sqrt(2 / fan_out) (He et al. 2015). Linear: normal, 0.01, bias 0.
    Batch normalisation: scale 1, shift 0, mean 0, variance 1. Edge values: 0. RandWire's own start is
    not recovered.
    """
    for name, module in network.named_modules():
        draws = counter_generator(seed, "init", name)
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
            module.weight.copy_(torch.randn(module.weight.shape, generator=draws) * math.sqrt(2 / fan_out))
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Linear):
            module.weight.copy_(torch.randn(module.weight.shape, generator=draws) * 0.01)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, StageModule):
            edges = module.graph.edges
            starts = [edges[position].start for position in module.weighted_edges]
            module.edge_values.copy_(torch.tensor(starts))


def build_network(architecture: Architecture, seed: int) -> Network:
    """The initialised network, on the CPU, in float32. No global random state is read or changed."""
    with torch.device("meta"):
        network = Network(architecture)
    network.to_empty(device="cpu")
    initialise(network, seed)
    return network
