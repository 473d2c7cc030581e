"""The architecture: one network, completely described, as data.

stem -> stages -> head. A stage wires a graph at a width and a stride; a named rule says where stride and
widening happen. Everything is frozen, goes to JSON and back unchanged, and has a digest.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from networks.blocks import find_operation
from networks.complexity import Complexity, batch_norm, conv, linear, strided, total
from networks.errors import UserError
from networks.graph import LEARNED, Edge, Graph

StemKind = Literal["imagenet_small", "imagenet_regular", "strided", "cifar", "resnet", "vgg"]
HeadKind = Literal["relu_conv", "conv_relu", "bn_relu", "plain", "relu", "vgg"]
StrideRule = Literal["sources", "input", "edges_from_inputs"]
# What may stand between a stage's input and its graph: at the same size, and at half of it in cells.
VGG_POOL = 7  # pixels wide and high, before VGG's linear layers
PROJECTION, REDUCTION = "triplet_conv_1x1", "triplet_factorized_1x1"


class Shape(NamedTuple):
    """One image or feature map: channels, height, width."""

    c: int
    h: int
    w: int


class StemLayer(NamedTuple):
    """A dense convolution: channels, stride, kernel, and whether BN follows it; else it has a bias."""

    channels: int
    stride: int
    kernel: int = 3
    normalised: bool = True


class Stem(BaseModel):
    """From image to the first stage. `channels` is RandWire's C (spec 1.5).

    imagenet_small: 3x3 stride 2 conv-BN to C/2 (rounded down), then ReLU, 3x3 stride 2 conv, BN to C.
    imagenet_regular: only the first of them. strided: 3x3 stride 2 conv-BN to C. cifar: the same with
    stride 1. vgg: with stride 1 and a bias, without BN. resnet: 7x7 stride 2 conv-BN to C, ReLU, 3x3 stride 2
    max pool. `relu`: a ReLU ends the stem, for stages that do not begin with one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: StemKind
    channels: int = Field(ge=2)
    relu: bool = False

    @property
    def convolutions(self) -> tuple[StemLayer, ...]:
        """In order."""
        c = self.channels
        layers: dict[StemKind, tuple[StemLayer, ...]] = {
            "imagenet_small": (StemLayer(c // 2, 2), StemLayer(c, 2)),
            "imagenet_regular": (StemLayer(c // 2, 2),),
            "strided": (StemLayer(c, 2),),
            "cifar": (StemLayer(c, 1),),
            "resnet": (StemLayer(c, 2, kernel=7),),
            "vgg": (StemLayer(c, 1, normalised=False),),
        }
        return layers[self.kind]

    @property
    def pools(self) -> bool:
        """Whether a ReLU and a max pool that halves the size end it."""
        return self.kind == "resnet"


class Stage(BaseModel):
    """A graph at a width. The graph is given, or named in the architecture's `cells`.

    `rule` says where stride and widening happen. sources: in the nodes that read an input (RandWire).
    input: in a strided 1x1 projection of each input before the graph. edges_from_inputs: in the
    operations of the edges that leave an input (cells of the DARTS family).

    A graph with two inputs reads the outputs of the two stages before, the older one first; the first stage
    reads the stem twice. Both are projected to the stage's width and to the size of the newer one, and the
    rule is edges_from_inputs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    graph: Graph | str
    channels: int = Field(ge=1)
    stride: Literal[1, 2] = 1
    rule: StrideRule = "sources"
    edge_drop: float = Field(0.0, ge=0, le=1)


class Head(BaseModel):
    """From the last stage to logits: an expansion by kind, global average pool, dropout, linear.

    relu_conv: ReLU, 1x1 conv to `channels`, BN (RandWire; all left out when `channels` is None).
    conv_relu: 1x1 conv to `channels`, BN, ReLU (ShuffleNet, MobileNet). bn_relu: BN, ReLU
    (NAS-Bench-201), plain: nothing (DARTS), relu: ReLU (ResNet); all without `channels`. `bias`: of the
    linear layer. vgg: ReLU, 2x2 max pool, average pool to 7x7, two linear layers of `channels` with ReLU
    instead of the global pool.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: HeadKind = "relu_conv"
    channels: int | None = Field(1280, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    bias: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind in ("bn_relu", "plain", "relu") and self.channels is not None:
            raise UserError("head.channels", self.channels, f"null with the head {self.kind}")
        if self.kind in ("conv_relu", "vgg") and self.channels is None:
            raise UserError("head.channels", None, f"a width with the head {self.kind}")
        return self

    def complexity(self, c_in: int, h: int, w: int, classes: int) -> Complexity:
        """Of the whole head on a c_in x h x w feature map."""
        parts, c = [], c_in
        if self.kind == "vgg" and self.channels is not None:
            parts = [linear(c_in * VGG_POOL**2, self.channels), linear(self.channels, self.channels)]
            c = self.channels
        elif self.channels is not None:
            parts, c = [conv(c_in, self.channels, h, w), batch_norm(self.channels)], self.channels
        elif self.kind == "bn_relu":
            parts = [batch_norm(c_in)]
        return total([*parts, linear(c, classes, bias=self.bias)])


class Architecture(BaseModel):
    """`image` is the shape the network is meant for; costs are given at it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: Shape
    classes: int = Field(ge=2)
    stem: Stem
    stages: tuple[Stage, ...] = Field(min_length=1)
    head: Head = Head()
    cells: dict[str, Graph] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if min(self.image) < 1:
            raise UserError("image", list(self.image), "channels, height and width of 1 or more")
        for position in range(len(self.stages)):
            where = f"stages.{position}"
            stage, graph = self.stages[position], self.graph(position)
            if len(graph.inputs) > 2 or not graph.inputs:
                raise UserError(f"{where}.graph.inputs", graph.inputs, "one input or two")
            if len(graph.inputs) == 2 and stage.rule != "edges_from_inputs":
                raise UserError(f"{where}.rule", stage.rule, "edges_from_inputs, with two inputs")
            self._check_rule(where, stage, graph)
        return self

    @staticmethod
    def _check_rule(where: str, stage: Stage, graph: Graph) -> None:
        """The operations that meet the stage's stride must be able to resize."""
        for edge in graph.edges:
            if edge.source not in graph.inputs or stage.rule == "input":
                continue
            name = edge.operation if stage.rule == "edges_from_inputs" else graph.operation_of[edge.target]
            silent = edge.operation == "none" and graph.aggregation_of[edge.target] != "mean"
            if stage.rule == "edges_from_inputs" and silent:
                continue  # nothing is nothing at any size
            if name is None or not find_operation(name).resizes:
                raise UserError(
                    f"{where}.rule", stage.rule, f"operations that can resize where {name!r} stands"
                )
            mixed = any(other.source not in graph.inputs for other in graph.incoming[edge.target])
            if stage.rule == "sources" and mixed:
                raise UserError(f"{where}.rule", stage.rule, "nodes that read the input alone, or not at all")

    def graph(self, position: int) -> Graph:
        """The graph of one stage, looked up in `cells` where it is named."""
        graph = self.stages[position].graph
        if isinstance(graph, Graph):
            return graph
        if graph not in self.cells:
            raise UserError(
                f"stages.{position}.graph", graph, f"a graph, or one of the cells {sorted(self.cells)}"
            )
        return self.cells[graph]

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces. Equal architectures give equal text."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls.model_validate_json(text)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return digest_of(self.model_dump(mode="json"))

    def stage_shapes(self, image: Shape | None = None) -> list[Shape]:
        """The shapes between the parts: stem output, then the output of each stage."""
        c, h, w = image or self.image
        for layer in self.stem.convolutions:
            c, (h, w) = layer.channels, strided(h, w, layer.stride)
        shapes = [Shape(c, *strided(h, w, 2 if self.stem.pools else 1))]
        _, h, w = shapes[0]
        for position, stage in enumerate(self.stages):
            h, w = strided(h, w, stage.stride)
            shapes.append(Shape(stage.channels * self.graph(position).widths, h, w))
        return shapes

    def entries(self, position: int, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        """What a stage reads, of all `stage_shapes`: the newest last."""
        newest = shapes[position]
        return (newest,) if len(self.graph(position).inputs) == 1 else (shapes[max(0, position - 1)], newest)

    def complexity(self, image: Shape | None = None) -> Complexity:
        """Parameters, multiply-adds and activations for one image of this shape (default `self.image`)."""
        return total(list(self._costs(image or self.image)))

    def _costs(self, image: Shape) -> Iterator[Complexity]:
        c, h, w = image
        for c_out, stride, kernel, normalised in self.stem.convolutions:
            yield conv(c, c_out, h, w, kernel=kernel, stride=stride)
            yield batch_norm(c_out) if normalised else Complexity(params=c_out)
            c, (h, w) = c_out, strided(h, w, stride)
        shapes = self.stage_shapes(image)
        for position, stage in enumerate(self.stages):
            yield from stage_costs(self.graph(position), stage, *self.entries(position, shapes))
        yield self.head.complexity(*shapes[-1], self.classes)


class Placement(NamedTuple):
    """What an operation of a stage is asked to do: the shape it reads, channels it writes, stride."""

    entry: Shape
    c_out: int
    stride: int

    @property
    def complexity_args(self) -> tuple[int, int, int, int, int]:
        return self.entry.c, self.c_out, self.entry.h, self.entry.w, self.stride


class Projection(NamedTuple):
    """An operation between a stage's input and its graph."""

    operation: str
    place: Placement


class Placements:
    """Where a stage's rule puts stride and widening, for a stage fed with `entries`."""

    def __init__(self, graph: Graph, stage: Stage, *entries: Shape) -> None:
        self._graph, self._rule = graph, stage.rule
        entry = entries[-1]
        self._projected: tuple[Projection, ...] = ()
        if len(entries) == 2:
            self._projected = tuple(_levelled(one, entry, stage.channels) for one in entries)
            entry = entry._replace(c=stage.channels)
        inside = Shape(stage.channels, *strided(entry.h, entry.w, stage.stride))
        self._crossing = Placement(entry, stage.channels, stage.stride)
        self._before = Placement(entry, entry.c, 1)
        self._inside = Placement(inside, stage.channels, 1)

    @property
    def projections(self) -> tuple[Projection, ...]:
        """One for each input; none where the rule has none or nothing changes."""
        changes = self._crossing != self._inside
        crosses = self._rule == "input" and changes
        return (Projection(PROJECTION, self._crossing),) if crosses else self._projected

    def node(self, node: int) -> Placement:
        reads_input = any(edge.source in self._graph.inputs for edge in self._graph.incoming[node])
        return self._crossing if self._rule == "sources" and reads_input else self._inside

    def edge(self, edge: Edge) -> Placement:
        if edge.source not in self._graph.inputs:
            return self._inside
        by_rule = {"sources": self._before, "input": self._inside, "edges_from_inputs": self._crossing}
        return by_rule[self._rule]


def _levelled(entry: Shape, newest: Shape, channels: int) -> Projection:
    """To this width, at the size of the newest input. Raises `UserError` for one that is not as large, or
    twice as large."""
    if (entry.h, entry.w) == (newest.h, newest.w):
        return Projection(PROJECTION, Placement(entry, channels, 1))
    if strided(entry.h, entry.w, 2) != (newest.h, newest.w):
        raise UserError(
            "stages", list(entry), f"inputs of one size, or the older twice as large as {list(newest)}"
        )
    return Projection(REDUCTION, Placement(entry, channels, 2))


def stage_costs(graph: Graph, stage: Stage, *entries: Shape) -> Iterator[Complexity]:
    """Cost of every operation and every learned edge value of a stage fed with `entries`."""
    placements = Placements(graph, stage, *entries)
    for operation, place in placements.projections:
        yield find_operation(operation).complexity(*place.complexity_args)
    for node in graph.nodes:
        if node.operation is not None:
            place = placements.node(node.id)
            yield find_operation(node.operation).complexity(*place.complexity_args)
    for edge in graph.edges:
        yield find_operation(edge.operation).complexity(*placements.edge(edge).complexity_args)
        yield Complexity(edge.weight in LEARNED)


def canonical_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_of(value: object) -> str:
    """SHA-256 of the canonical JSON of `value`, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
