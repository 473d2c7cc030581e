"""RandWire networks: random wirings made into stages and architectures (1904.01569; spec 1.4, 1.5)."""

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from networks.architecture import Architecture, Head, Shape, Stage, Stem, StemKind
from networks.errors import UserError, nearest
from networks.generators import RandomGraph, Wiring
from networks.graph import Edge, Graph, Node
from networks.operations import OPERATIONS

Regime = Literal["small", "regular", "cifar"]


class _Row(NamedTuple):
    """A random stage: its share of N nodes and its width in units of C."""

    nodes: float
    width: int
    stride: Literal[1, 2]


class _Plan(NamedTuple):
    stem: StemKind
    rows: tuple[_Row, ...]


# Spec 1.5. The cifar regime is ours: the small regime's three stages behind a stem that keeps the size,
# at sizes 1, 1/2 and 1/4 of the image as CIFAR networks usually have them.
PLANS: dict[Regime, _Plan] = {
    "small": _Plan("imagenet_small", (_Row(1, 1, 2), _Row(1, 2, 2), _Row(1, 4, 2))),
    "regular": _Plan("imagenet_regular", (_Row(0.5, 1, 2), _Row(1, 2, 2), _Row(1, 4, 2), _Row(1, 8, 2))),
    "cifar": _Plan("cifar", (_Row(1, 1, 1), _Row(1, 2, 2), _Row(1, 4, 2))),
}


def stage_graph(wiring: Wiring, operation: str = "triplet_sep_conv_3x3") -> Graph:
    """The wiring with its extra input node 0 and output node n+1; random nodes are 1..n.

    Every random node sums its predecessors, weighted by a sigmoid where there are several, and applies
    `operation`. Sources read the input as it is; the output is the plain mean of the sinks.
    """
    last = wiring.n + 1
    nodes = [Node(id=0)]
    nodes += [Node(id=i, operation=operation, aggregation="weighted_sum") for i in range(1, last)]
    nodes.append(Node(id=last, aggregation="mean"))
    edges = [Edge(source=0, target=source + 1) for source in wiring.sources]
    taken = [0] * wiring.n
    for source, target in wiring.edges:
        weight: Literal["none", "sigmoid"] = "sigmoid" if wiring.in_degree[target] > 1 else "none"
        edges.append(Edge(source=source + 1, target=target + 1, slot=taken[target], weight=weight))
        taken[target] += 1
    edges += [Edge(source=sink + 1, target=last, slot=slot) for slot, sink in enumerate(wiring.sinks)]
    return Graph(nodes=tuple(nodes), edges=tuple(edges), inputs=(0,), output=last)


class RandWireSettings(BaseModel):
    """What a RandWire network is built with, whatever it classifies (spec 1.5, 1.8).

    nodes is N and channels is C of the paper. `first_stride` is the first random stage's; None is the
    regime's own. `require_connected` redraws disconnected graphs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    regime: Regime = "small"
    nodes: int = Field(32, ge=2)
    channels: int = Field(78, ge=2)
    first_stride: Literal[1, 2] | None = None
    operation: str = "triplet_sep_conv_3x3"
    head_channels: int | None = Field(1280, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    edge_drop: float = Field(0.0, ge=0, le=1)
    require_connected: bool = False

    @field_validator("operation")
    @classmethod
    def _resizes(cls, name: str) -> str:
        resizing = [known.name for known in OPERATIONS.values() if known.resizes]
        if name not in resizing:
            raise UserError("", name, ", ".join(sorted(resizing)), nearest(name, resizing))
        return name


class RandWireTemplate(RandWireSettings):
    """Everything about a RandWire network but its generator and seed."""

    image: Shape = Shape(3, 224, 224)
    classes: int = Field(1000, ge=2)

    def stage_nodes(self) -> tuple[int, ...]:
        """Nodes of each random stage."""
        return tuple(max(1, int(self.nodes * row.nodes)) for row in PLANS[self.regime].rows)

    def check(self, generator: RandomGraph) -> None:
        """Raise `UserError` when the generator cannot make one of the stages."""
        for nodes in self.stage_nodes():
            generator.check(nodes)

    def wirings(self, generator: RandomGraph, seed: int) -> list[Wiring]:
        """One independent wiring a stage, from the counters (seed, "stage", position)."""
        return [
            generator.wiring(nodes, seed, "stage", position, require_connected=self.require_connected)
            for position, nodes in enumerate(self.stage_nodes())
        ]

    def build(self, wirings: list[Wiring]) -> Architecture:
        """The architecture with these wirings as its random stages, in order."""
        plan = PLANS[self.regime]
        first = self.first_stride or plan.rows[0].stride
        stages = [
            Stage(
                graph=stage_graph(wiring, self.operation),
                channels=self.channels * row.width,
                stride=row.stride if position else first,
                edge_drop=self.edge_drop,
            )
            for position, (wiring, row) in enumerate(zip(wirings, plan.rows, strict=True))
        ]
        return Architecture(
            image=self.image,
            classes=self.classes,
            stem=Stem(kind=plan.stem, channels=self.channels),
            stages=tuple(stages),
            head=Head(channels=self.head_channels, dropout=self.dropout),
        )

    def architecture(self, generator: RandomGraph, seed: int) -> Architecture:
        """g(theta, s): the network of this generator and seed."""
        self.check(generator)
        return self.build(self.wirings(generator, seed))
