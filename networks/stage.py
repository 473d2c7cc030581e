"""The module of one stage: a graph's operations, its learned edge values, and how they are run."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from networks.architecture import Placements, Shape, Stage
from networks.counters import counter_generator, counter_random
from networks.execution import Sizes, edge_weights, run_inference, run_plain, without_relu
from networks.graph import Edge, Graph
from networks.operations import PreActivated, find_operation
from networks.plan import Plan, Traits, compile_plan, edge_key, node_key
from networks.whole_stage import Job, final_batch_norm

Executor = Literal["whole_stage", "autograd", "modules"]
PLANS_KEPT = 256


class PlanFor(Protocol):
    """Gives the plan of a stage as an executor needs it (networks/plan.py)."""

    def __call__(
        self, *, recorded: bool = ..., normalised: frozenset[str] = ..., rectifies: bool = ...
    ) -> Plan: ...


class StageModule(nn.Module):
    """What every stage is: a graph's learned edge values, and the executors of its plans. `entries`: what it
    reads, one shape for each input of the graph.

    Who inherits says which operations a pass uses, and compiles the plan for them.
    """

    def __init__(self, graph: Graph, stage: Stage, *entries: Shape) -> None:
        super().__init__()
        self.graph, self.stage, self.entries = graph, stage, entries
        self.placements = Placements(graph, stage, *entries)
        built = [
            find_operation(operation).build(place.entry.c, place.c_out, place.stride)
            for operation, place in self.placements.projections
        ]
        self.projection: nn.Module = nn.Identity()
        if built:
            self.projection = built[0] if len(entries) == 1 else nn.ModuleList(built)
        self.weighted_edges = [i for i, edge in enumerate(graph.edges) if edge.weight != "none"]
        starts = torch.tensor([graph.edges[i].start for i in self.weighted_edges])
        self.edge_values: Tensor
        if graph.is_frozen:
            self.register_buffer("edge_values", starts)
        else:
            self.edge_values = nn.Parameter(starts)
        self.kinds = tuple(graph.edges[i].weight for i in self.weighted_edges)
        self.executor: Executor = "whole_stage"
        # The rule "input" resizes before the graph, so that nothing inside it does.
        self.sizes = Sizes(stage.channels, 1 if stage.rule == "input" else stage.stride)

    def build_edge(self, edge: Edge, operation: str) -> nn.Module:
        """This operation, as it is on this edge."""
        place = self.placements.edge(edge)
        return find_operation(operation).build(place.entry.c, place.c_out, place.stride)

    def build_nodes(self) -> Iterator[tuple[str, nn.Module]]:
        """Key and module of every node that has an operation."""
        for node in self.graph.nodes:
            if node.operation is not None:
                place = self.placements.node(node.id)
                built = find_operation(node.operation).build(place.entry.c, place.c_out, place.stride)
                yield node_key(node.id), built

    def execute(
        self, inputs: Sequence[Tensor], operations: Mapping[str, nn.Module], plan_for: PlanFor
    ) -> Tensor:
        """Run the stage on these operations, keyed as its plans are."""
        if isinstance(self.projection, nn.ModuleList):
            inputs = [project(x) for project, x in zip(self.projection, inputs, strict=True)]
        else:
            inputs = [self.projection(x) for x in inputs]
        if self.executor != "whole_stage":
            return self._run(run_plain, inputs, operations, plan_for(rectifies=self.executor != "modules"))
        if not torch.is_grad_enabled() or not (
            any(x.requires_grad for x in inputs)
            or any(parameter.requires_grad for parameter in self.parameters())
        ):
            return self._run(run_inference, inputs, operations, plan_for())
        if self.graph.is_cell:  # cells are wide and shallow: little would be gained
            return self._run(run_plain, inputs, operations, plan_for())
        (x,) = inputs
        if torch.compiler.is_compiling():
            raise RuntimeError(
                "the whole_stage executor cannot be compiled or exported with gradients: "
                'call network.set_executor("autograd") first'
            )
        normalised = {
            key: batch_norm
            for key, operation in operations.items()
            if (batch_norm := final_batch_norm(operation)) is not None
        }
        plan = plan_for(recorded=True, normalised=frozenset(normalised))
        job = Job.of(plan, operations, normalised, self.kinds, self.sizes)
        return job.apply(x, self.edge_values)

    def _run(
        self,
        run: Callable[..., Tensor],
        inputs: Sequence[Tensor],
        operations: Mapping[str, nn.Module],
        plan: Plan,
    ) -> Tensor:
        weights = edge_weights(self.edge_values, self.kinds)
        return run(plan, operations, weights, self.sizes, *inputs)


class GraphStage(StageModule):
    """N x C x H x W -> N x channels x H/stride x W/stride, from one input or two; times as many channels as
    a joined output has parts.

    `edge_values[i]` is the scalar of the i-th edge of `weighted_edges`: a parameter, or a buffer where the
    graph's weights are fixed. Sigmoid edges start at 0 and weigh 0.5 then (RandWire spec 1.4 leaves the start
    open), real ones at 1 (TopoNet spec 2.4), where the graph says nothing else. `removed` names edges
    (positions in `graph.edges`) that carry nothing: a node left without inputs reads zeros, a mean is taken
    over what is left. Damage studies and edge-drop set it; nothing else of the stage changes. Edges whose
    operation is `none` carry nothing either.
    """

    def __init__(self, graph: Graph, stage: Stage, *entries: Shape) -> None:
        super().__init__(graph, stage, *entries)
        self.operations = nn.ModuleDict(dict(self.build_nodes()))
        self.silent = silent_edges(graph)
        for position, edge in enumerate(graph.edges):
            if edge.operation != "identity" and position not in self.silent:
                self.operations[edge_key(edge)] = self.build_edge(edge, edge.operation)
        self.removed: frozenset[int] = frozenset()
        self.dropped: frozenset[int] = frozenset()
        self.path_drop = 0.0
        self._path_draws: torch.Generator | None = None
        self._traits = traits_of(dict(self.operations.items()))
        self._plans: dict[object, Plan] = {}
        self.plan()

    def forward(self, *inputs: Tensor) -> Tensor:
        operations: dict[str, nn.Module] = dict(self.operations.items())
        if self.training and self.path_drop:
            if self._path_draws is None:
                raise RuntimeError("a network with drop-path is trained after new_step(seed, step)")
            draws = self._path_draws
            operations = {key: DroppedPath(one, self.path_drop, draws) for key, one in operations.items()}
        return self.execute(inputs, operations, self.plan)

    def plan(
        self,
        recorded: bool = False,
        normalised: frozenset[str] = frozenset(),
        rectifies: bool = True,
    ) -> Plan:
        """The plan without the removed edges; compiled when it is first asked for, then kept."""
        missing = self.removed | self.dropped if self.training else self.removed
        key = (missing, recorded, normalised, rectifies)
        if key not in self._plans:
            if len(self._plans) >= PLANS_KEPT:
                self._plans.clear()
            self._plans[key] = compile_plan(
                self.graph, self._traits, missing | self.silent,
                recorded=recorded, normalised=normalised, rectifies=rectifies,
            )  # fmt: skip
        return self._plans[key]

    def remove(self, edges: Iterable[int]) -> None:
        """From now on these edges (positions in `graph.edges`) carry nothing; `remove([])` restores all."""
        self.removed = frozenset(edges)

    @property
    def droppable_edges(self) -> list[int]:
        """Edges that edge-drop may remove: those whose target has other inputs (spec 1.8)."""
        output = self.graph.output
        return [
            position
            for position, edge in enumerate(self.graph.edges)
            if len(self.graph.incoming[edge.target]) > 1 and edge.target != output
        ]

    def draw_edge_drop(self, seed: int, *path: int | str) -> None:
        """With probability `stage.edge_drop`, `dropped` is one random droppable edge: it carries nothing
        in training passes until the next draw. In eval mode the stage is whole."""
        rng = counter_random(seed, *path, "edge_drop")
        droppable = self.droppable_edges
        drops = bool(droppable) and rng.random() < self.stage.edge_drop
        self.dropped = frozenset([rng.choice(droppable)] if drops else [])

    def draw_path_drop(self, seed: int, *path: int | str) -> None:
        """What drop-path drops in the next training pass is drawn from (seed, path)."""
        self._path_draws = counter_generator(seed, *path, "path_drop")


class DroppedPath(nn.Module):
    """An operation that, for each image by itself, gives nothing with this probability, and as much more as
    keeps the mean else (drop-path of FractalNet, 1605.07648, as DARTS uses it: skips are never dropped)."""

    def __init__(self, operation: nn.Module, probability: float, draws: torch.Generator) -> None:
        super().__init__()
        self.operation, self.probability, self.draws = operation, probability, draws

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.operation(x)
        kept = torch.rand((len(x), 1, 1, 1), generator=self.draws) >= self.probability
        return out * kept.to(out.device, out.dtype) / (1 - self.probability)


def silent_edges(graph: Graph) -> frozenset[int]:
    """Positions of the edges that carry nothing whatever reads them. A mean counts its zeros."""
    return frozenset(
        position
        for position, edge in enumerate(graph.edges)
        if edge.operation == "none" and graph.aggregation_of[edge.target] != "mean"
    )


def traits_of(operations: Mapping[str, nn.Module]) -> dict[str, Traits]:
    """What plans must know of these operations, by their keys."""
    return {
        key: Traits(isinstance(operation, PreActivated), writes_anew(operation))
        for key, operation in operations.items()
        if not isinstance(operation, nn.Identity)
    }


def writes_anew(operation: nn.Module) -> bool:
    """The operation's output is known to share no storage with its input: a convolution or a batch
    normalisation comes last."""
    body = without_relu(operation)
    last = body[-1] if isinstance(body, nn.Sequential) and len(body) else body
    return isinstance(last, nn.Conv2d | nn.BatchNorm2d)
