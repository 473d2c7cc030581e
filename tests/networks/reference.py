"""Two slow executors of a stage, written for plainness: what the fast ones are held to.

`per_edge` is how the best public RandWire code runs a graph: a multiply and an add for each edge, a ReLU
for each node. `level_batched` runs all the separable triplets of a topological level as one grouped
convolution. Both take a `GraphStage` and its input, and update the batch statistics in training mode.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.graph import Edge
from networks.plan import edge_key, node_key
from networks.stage import GraphStage


def per_edge(stage: GraphStage, x: Tensor) -> Tensor:
    """The stage, node by node, from the definition; nodes that do not reach the output are not run."""
    return _PerEdge(stage, stage.projection(x)).output()


class _PerEdge:
    def __init__(self, stage: GraphStage, entry: Tensor) -> None:
        self.stage, self.graph, self.entry = stage, stage.graph, entry
        self.position = {(edge.target, edge.slot): i for i, edge in enumerate(self.graph.edges)}
        self.factor = {position: factor for factor, position in enumerate(stage.weighted_edges)}
        self.values = {self.graph.inputs[0]: entry}

    def output(self) -> Tensor:
        live = {self.graph.output}
        for node in reversed(self.graph.order):
            if node in live:
                live |= {edge.source for edge in self._present(node)}
        for node in self.graph.order:
            if node in live and node not in self.values:
                key, z = node_key(node), self._aggregate(node)
                self.values[node] = self.stage.operations[key](z) if key in self.stage.operations else z
        return self.values[self.graph.output]

    def _position(self, edge: Edge) -> int:
        return self.position[edge.target, edge.slot]

    def _present(self, node: int) -> list[Edge]:
        removed = self.stage.removed
        return [edge for edge in self.graph.incoming[node] if self._position(edge) not in removed]

    def _aggregate(self, node: int) -> Tensor:
        present = self._present(node)
        if not present:
            return self._nothing(self.graph.incoming[node][0])
        z = self._carried(present[0])
        for edge in present[1:]:
            z = z + self._carried(edge)
        return z / len(present) if self.graph.aggregation_of[node] == "mean" else z

    def _carried(self, edge: Edge) -> Tensor:
        x = self.values[edge.source]
        if edge.operation != "identity":
            x = x * 0 if edge.operation == "none" else self.stage.operations[edge_key(edge)](x)
        if edge.weight == "none":
            return x
        a = self.stage.edge_values[self.factor[self._position(edge)]]
        return x * (torch.sigmoid(a) if edge.weight == "sigmoid" else a)

    def _nothing(self, edge: Edge) -> Tensor:
        """Zeros of the shape that the edge would carry."""
        if edge.source in self.graph.inputs and edge.operation == "identity":
            return torch.zeros_like(self.entry)
        stride = 1 if self.stage.stage.rule == "input" else self.stage.stage.stride
        n, _, h, w = self.entry.shape
        return self.entry.new_zeros(n, self.stage.stage.channels, -(-h // stride), -(-w // stride))


def level_batched(stage: GraphStage, x: Tensor) -> Tensor:
    """For RandWire stages of separable triplets: three kernels a level, whatever its width."""
    graph = stage.graph
    weights = torch.sigmoid(stage.edge_values)
    values = {graph.inputs[0]: x}
    for level in graph.levels[1:-1]:
        for group in _same_shape(stage, level):
            z = torch.cat([_weighted_sum(stage, node, values, weights) for node in group], 1)
            bodies = [stage.operations[node_key(node)].body for node in group]
            outputs = _grouped(F.relu(z), bodies)
            values.update(zip(group, outputs, strict=True))
    sinks = [values[edge.source] for edge in graph.incoming[graph.output]]
    return torch.stack(sinks).mean(0)


def _same_shape(stage: GraphStage, level: tuple[int, ...]) -> list[list[int]]:
    reads_input = [node for node in level if stage.graph.incoming[node][0].source in stage.graph.inputs]
    inside = [node for node in level if node not in reads_input]
    return [group for group in (reads_input, inside) if group]


def _weighted_sum(stage: GraphStage, node: int, values: dict[int, Tensor], weights: Tensor) -> Tensor:
    parts = []
    for edge in stage.graph.incoming[node]:
        part = values[edge.source]
        if edge.weight != "none":
            part = part * weights[stage.weighted_edges.index(stage.graph.edges.index(edge))]
        parts.append(part)
    return torch.stack(parts).sum(0)


def _grouped(r: Tensor, bodies: list[nn.Sequential]) -> tuple[Tensor, ...]:
    depthwise, pointwise, norms = zip(*bodies, strict=True)
    first = depthwise[0]
    y = F.conv2d(
        r, torch.cat([conv.weight for conv in depthwise]), None, first.stride, first.padding, 1, r.shape[1]
    )
    y = F.conv2d(y, torch.cat([conv.weight for conv in pointwise]), groups=len(bodies))
    mean = torch.cat([norm.running_mean for norm in norms])
    variance = torch.cat([norm.running_var for norm in norms])
    y = F.batch_norm(
        y, mean, variance,
        torch.cat([norm.weight for norm in norms]), torch.cat([norm.bias for norm in norms]),
        norms[0].training, norms[0].momentum, norms[0].eps,
    )  # fmt: skip
    if norms[0].training:
        for norm, new_mean, new_variance in zip(
            norms, mean.chunk(len(norms)), variance.chunk(len(norms)), strict=True
        ):
            norm.running_mean.copy_(new_mean)
            norm.running_var.copy_(new_variance)
    return y.chunk(len(bodies), 1)
