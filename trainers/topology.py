"""Edge weights that are learned with the rest of a network, and made sparse (TopoNet, 2008.08261; spec 2.4).

alpha <- alpha - eta (dL/dalpha + lambda g sign(alpha)): g is 1 (uniform), or grows with the in-degree of the
node that an edge leads to (adaptive). The paper's g, lambda, rates and starts were not recovered: log is the
reading of it that leaves a node's only edge alone, and everything here is a setting.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from networks.adjacency import sparsity
from networks.errors import UserError
from networks.graph import Graph
from networks.network import Network
from networks.stage import GraphStage


class EdgeSettings(BaseModel):
    """How the weights of edges are learned.

    penalty: uniform or adaptive L1, of `strength` (lambda). scale: adaptive's g of the in-degree d: log d,
    linear (d over its mean in the graph), or constant. step: proximal (each weight moves towards 0 by
    eta lambda g after the step, and stays there when it arrives), or subgradient (lambda g sign(alpha) is
    added to its gradient, and takes part in the momentum: it never rests at 0).
    rate: the learning rate of edge weights, as a multiple of the network's. threshold: weights no larger than
    it, sign aside, count as gone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    penalty: Literal["none", "uniform", "adaptive"] = "none"
    strength: float = Field(0.0, ge=0, allow_inf_nan=False)
    scale: Literal["log", "linear", "constant"] = "log"
    step: Literal["proximal", "subgradient"] = "proximal"
    rate: float = Field(1.0, gt=0, allow_inf_nan=False)
    threshold: float = Field(0.01, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check(self) -> "EdgeSettings":
        if (self.penalty == "none") != (self.strength == 0):
            allowed = "0" if self.penalty == "none" else "above 0"
            raise UserError("strength", self.strength, f"{allowed} with the penalty {self.penalty}")
        return self

    @property
    def label(self) -> str:
        """``adaptive(0.001)``; ``learned`` without a penalty."""
        return "learned" if self.penalty == "none" else f"{self.penalty}({self.strength:g})"


def in_degrees(graph: Graph) -> Tensor:
    """Of the node that each weighted edge leads to, in order; float64."""
    return torch.tensor(
        [len(graph.incoming[edge.target]) for edge in graph.edges if edge.weight != "none"],
        dtype=torch.float64,
    )


def coefficients(graph: Graph, settings: EdgeSettings) -> Tensor:
    """lambda g for each weighted edge of a graph; float64."""
    degrees = in_degrees(graph)
    if settings.penalty == "none":
        return torch.zeros_like(degrees)
    if settings.penalty == "uniform" or settings.scale == "constant":
        return torch.full_like(degrees, settings.strength)
    if settings.scale == "log":
        return settings.strength * degrees.log()
    reading = [len(into) for into in graph.incoming.values() if any(edge.weight != "none" for edge in into)]
    return settings.strength * degrees * len(reading) / sum(reading)


class EdgeLearning:
    """The part of a training step that is about edge weights: `add` after the backward pass, `shrink` after
    the optimiser's step.

    Raises `UserError` for a network without an edge that learns.
    """

    def __init__(self, network: Network, settings: EdgeSettings) -> None:
        self.settings = settings
        self.stages: list[GraphStage] = [
            stage
            for stage in network.graph_stages
            if any(edge.weight == "real" for edge in stage.graph.edges)
        ]
        if not self.stages:
            raise UserError(
                "training.edges", settings.label, "nothing for a network that has no real edge weights"
            )
        self._coefficients = [
            coefficients(stage.graph, settings).to(stage.edge_values.device, stage.edge_values.dtype)
            for stage in self.stages
        ]

    @property
    def parameters(self) -> list[Tensor]:
        return [stage.edge_values for stage in self.stages]

    @torch.no_grad()
    def add(self) -> None:
        """The subgradient of the penalty, to the gradients; 0 where a weight is 0."""
        if self.settings.penalty == "none" or self.settings.step != "subgradient":
            return
        for values, factor in zip(self.parameters, self._coefficients, strict=True):
            pull = factor * values.sign()
            values.grad = pull if values.grad is None else values.grad.add_(pull)

    @torch.no_grad()
    def shrink(self, rate: float) -> None:
        """Soft-threshold the weights by rate * lambda g: the proximal step of this learning rate."""
        if self.settings.penalty == "none" or self.settings.step != "proximal":
            return
        for values, factor in zip(self.parameters, self._coefficients, strict=True):
            values.copy_(values.sign() * (values.abs() - rate * factor).clamp_min(0))

    def sparsity(self) -> float:
        """Which part of the weights is no larger than the threshold."""
        graphs: Sequence[Graph] = [stage.graph for stage in self.stages]
        return sparsity(graphs, self.parameters, self.settings.threshold)
