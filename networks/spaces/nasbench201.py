"""NAS-Bench-201's cell space (2001.00326; NATS-Bench's topology space): 6 edges x 5 operations.

A cell has nodes 0..3 and an edge from each to each later one; a node sums what arrives; node 3 is the
output. Edge order everywhere: 0-1, 0-2, 1-2, 0-3, 1-3, 2-3. All cells of a network are the same.
"""

import re
from collections.abc import Iterator
from functools import cached_property

from pydantic import BaseModel, ConfigDict, Field

from networks.architecture import Architecture, Head, Shape, Stage, Stem
from networks.errors import UserError, nearest
from networks.graph import Edge, Graph, Node
from networks.spaces.choices import ChoiceSpace, Option, Site
from networks.spaces.space import Genes

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
# In the benchmark's order.
OPTIONS = (
    Option("none", "none"),
    Option("skip_connect", "identity"),
    Option("nor_conv_1x1", "triplet_conv_1x1"),
    Option("nor_conv_3x3", "triplet_conv_3x3"),
    Option("avg_pool_3x3", "avg_pool_3x3"),
)
WORDS = tuple(option.word for option in OPTIONS)
# Paths from the input to the output, as positions in EDGES.
PATHS = ((3,), (1, 5), (0, 2, 5), (0, 4))


class NasBench201Settings(BaseModel):
    """`channels`: C of the first cells, doubled at each reduction. `cells`: N of each of the three stages.
    The benchmark has C = 16 and N = 5."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(16, ge=2)
    cells: int = Field(5, ge=1)


class NasBench201Space(ChoiceSpace):
    """stem conv-BN, N cells, reduction, N cells, reduction, N cells, BN-ReLU-pool-linear."""

    kind = "nasbench201"
    ends = EDGES

    def __init__(self, settings: NasBench201Settings, image: Shape, classes: int) -> None:
        self.settings, self.image, self.classes = settings, image, classes

    @property
    def positions(self) -> tuple[str, ...]:
        return tuple(f"{source}-{target}" for source, target in EDGES)

    @property
    def options(self) -> tuple[tuple[Option, ...], ...]:
        return (OPTIONS,) * len(EDGES)

    @cached_property
    def sites(self) -> dict[Site, int]:
        cells = [i for i, stage in enumerate(self.template.stages) if stage.graph == "cell"]
        return {Site(stage, edge): edge for stage in cells for edge in range(len(EDGES))}

    def built(self, genes: Genes) -> Architecture:
        return self._skeleton.model_copy(update={"cells": {"cell": cell(genes), "reduction": reduction()}})

    @cached_property
    def _skeleton(self) -> Architecture:
        c, cells = self.settings.channels, self.settings.cells
        stages = []
        for width in (c, 2 * c, 4 * c):
            if width > c:
                stages.append(Stage(graph="reduction", channels=width, stride=2, rule="edges_from_inputs"))
            stages += [Stage(graph="cell", channels=width, rule="input")] * cells
        return Architecture(
            image=self.image,
            classes=self.classes,
            stem=Stem(kind="cifar", channels=c),
            stages=tuple(stages),
            head=Head(kind="bn_relu", channels=None),
            cells={"cell": cell((0,) * len(EDGES)), "reduction": reduction()},
        )

    def parse(self, text: str) -> Genes:
        return cell_genes(text)

    def names(self, genes: Genes) -> dict[str, object]:
        """Each edge's operation, and `cell`: the benchmark's string."""
        return {**super().names(genes), "cell": cell_string(genes)}


def cell(genes: Genes) -> Graph:
    """The cell's graph. `none` edges are in it: they say that nothing flows there."""
    edges = []
    slots = {target: iter(range(3)) for target in (1, 2, 3)}
    for (source, target), gene in zip(EDGES, genes, strict=True):
        operation = OPTIONS[gene].operation
        edges.append(Edge(source=source, target=target, slot=next(slots[target]), operation=operation))
    return Graph(nodes=tuple(Node(id=node) for node in range(4)), edges=tuple(edges), inputs=(0,), output=3)


def reduction() -> Graph:
    """ReLU-conv3x3-BN twice, the first with the stage's stride, beside average pooling and a 1x1 conv."""
    edges = (
        Edge(source=0, target=1, operation="triplet_conv_3x3"),
        Edge(source=1, target=2, slot=0, operation="triplet_conv_3x3"),
        Edge(source=0, target=2, slot=1, operation="avg_pool_2x2_conv_1x1"),
    )
    return Graph(nodes=tuple(Node(id=node) for node in range(3)), edges=edges, inputs=(0,), output=2)


def cell_string(genes: Genes) -> str:
    """``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``."""
    words = [f"{WORDS[gene]}~{source}" for (source, _), gene in zip(EDGES, genes, strict=True)]
    return "+".join(f"|{'|'.join(words[start:end])}|" for start, end in ((0, 1), (1, 3), (3, 6)))


def cell_genes(text: str) -> Genes:
    """The genes of a cell's string. Raises `UserError` for anything that is none."""
    parts = re.findall(r"([a-z0-9_]+)~(\d)", text)
    genes = []
    for word, _ in parts:
        if word not in WORDS:
            raise UserError("cell", text, f"operations {', '.join(WORDS)}", nearest(word, WORDS))
        genes.append(WORDS.index(word))
    if len(genes) != len(EDGES) or cell_string(tuple(genes)) != text:
        raise UserError("cell", text, "a cell such as " + cell_string((1,) * len(EDGES)))
    return tuple(genes)


def live_paths(genes: Genes) -> Iterator[tuple[int, ...]]:
    """The input-to-output paths without a `none`, as positions in EDGES."""
    return (path for path in PATHS if all(genes[edge] for edge in path))
