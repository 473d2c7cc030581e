"""Cells of the DARTS family (1806.09055): two inputs, four nodes with two inputs each, 14 edges x 8
operations.

A cell reads the outputs of the two stages before it (nodes 0 and 1). Each of the nodes 2 to 5 sums what two
of the nodes before it send; the four are joined along the channels. So genes depend on each other: of the
edges into a node all but two are ``none`` (ABS's and RLNAS's `check_cand`, angle spec A10).
"""

import random
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import combinations
from typing import Literal

from networks.architecture import Architecture, Shape
from networks.cells import INPUTS, CellSettings, cell_architecture
from networks.graph import Edge, Graph, Node
from networks.spaces.choices import ChoiceSpace, End, Kept, Option, Site
from networks.spaces.space import Genes

NODES = range(2, 6)
EDGES = tuple((source, target) for target in NODES for source in range(target))
OUTPUT = 6
NONE = 0
# In the released order.
OPTIONS = (
    Option("none", "none"),
    Option("max_pool_3x3", "darts_max_pool_3x3"),
    Option("avg_pool_3x3", "darts_avg_pool_3x3"),
    Option("skip_connect", "darts_skip"),
    Option("sep_conv_3x3", "darts_sep_conv_3x3"),
    Option("sep_conv_5x5", "darts_sep_conv_5x5"),
    Option("dil_conv_3x3", "darts_dil_conv_3x3"),
    Option("dil_conv_5x5", "darts_dil_conv_5x5"),
)


class DartsSettings(CellSettings):
    """`reduction`: whether the halving cells have genes of their own (DARTS, RLNAS), or are wired as all
    others (ABS). The defaults are ABS's."""

    reduction: Literal["same", "own"] = "same"


class DartsSpace(ChoiceSpace):
    """stem, cells, average pool, linear. A cell is four times as wide as its operations."""

    kind = "darts"
    independent = False

    def __init__(self, settings: DartsSettings, image: Shape, classes: int) -> None:
        self.settings, self.image, self.classes = settings, image, classes

    @cached_property
    def positions(self) -> tuple[str, ...]:
        edges = [f"{source}-{target}" for source, target in EDGES]
        if self.settings.reduction == "same":
            return tuple(edges)
        return tuple(f"{cell} {edge}" for cell in ("normal", "reduction") for edge in edges)

    @property
    def options(self) -> tuple[tuple[Option, ...], ...]:
        return (OPTIONS,) * len(self.positions)

    @cached_property
    def sites(self) -> dict[Site, int]:
        """Edge positions in the graph are those of `EDGES`."""
        first = {"normal": 0, "reduction": len(self.positions) - len(EDGES)}
        return {
            Site(number, edge): first[stage.graph] + edge
            for number, stage in enumerate(self.template.stages)
            if isinstance(stage.graph, str)
            for edge in range(len(EDGES))
        }

    def built(self, genes: Genes) -> Architecture:
        cells = {"normal": cell(genes[: len(EDGES)]), "reduction": cell(genes[-len(EDGES) :])}
        return self._skeleton.model_copy(update={"cells": cells})

    @cached_property
    def _skeleton(self) -> Architecture:
        nothing = cell((NONE,) * len(EDGES))
        return cell_architecture(self.settings, self.image, self.classes, nothing, nothing)

    @cached_property
    def kept(self) -> Kept:
        return self.closed(tuple(tuple(range(len(OPTIONS))) for _ in self.positions))

    @cached_property
    def _nodes(self) -> tuple[range, ...]:
        """The genes that lead into one node, node by node."""
        starts = range(0, len(self.positions), len(EDGES))
        return tuple(
            range(start + EDGES.index((0, node)), start + EDGES.index((node - 1, node)) + 1)
            for start in starts
            for node in NODES
        )

    @cached_property
    def _node_of(self) -> dict[int, range]:
        return {gene: node for node in self._nodes for gene in node}

    # Given the options that are kept, so that a narrowed space asks the same functions.

    def possible(self, kept: Kept, prefix: Genes) -> Sequence[int]:
        gene = len(prefix)
        node = self._node_of[gene]
        wanted = INPUTS - sum(prefix[before] != NONE for before in range(node.start, gene))
        ways = completions(tuple(kept[later] for later in range(gene + 1, node.stop)))[0]
        return [value for value in kept[gene] if ways[wanted - (value != NONE)]]

    def count(self, kept: Kept) -> int:
        total = 1
        for node in self._nodes:
            total *= completions(tuple(kept[gene] for gene in node))[0][INPUTS]
        return total

    def draw(self, kept: Kept, rng: random.Random) -> Genes:
        """Uniform over the candidates: what drawing edge by edge gives that is repeated until it is legal."""
        genes: list[int] = []
        for node in self._nodes:
            wanted = INPUTS
            ways = completions(tuple(kept[gene] for gene in node))
            for after, gene in enumerate(node, start=1):
                weights = [ways[after][wanted - (value != NONE)] for value in kept[gene]]
                (value,) = rng.choices(kept[gene], weights)
                wanted -= value != NONE
                genes.append(value)
        return tuple(genes)

    def closed(self, kept: Kept) -> Kept:
        """What no candidate can have goes: the operations of an edge whose node has two inputs already that
        cannot be closed, and ``none`` where a node would have one input left."""
        closed = list(kept)
        for node in self._nodes:
            for gene in node:
                others = completions(tuple(kept[other] for other in node if other != gene))[0]
                closed[gene] = tuple(value for value in kept[gene] if others[INPUTS - (value != NONE)])
        return tuple(closed)

    def extreme(self, kept: Kept, cost: str, end: End) -> Genes:
        genes = [NONE] * len(kept)
        for node in self._nodes:
            best = {}
            for gene in node:
                live = {value: self._more(gene, value, cost) for value in kept[gene] if value != NONE}
                if live:
                    best[gene] = end(live, key=live.__getitem__)
            pairs = [
                pair
                for pair in combinations(best, INPUTS)
                if all(gene in pair or NONE in kept[gene] for gene in node)
            ]
            # Costs add up, so the best pair is one of each edge's best.
            sums = {pair: sum(self._more(gene, best[gene], cost) for gene in pair) for pair in pairs}
            chosen = end(sums, key=sums.__getitem__)
            for gene in chosen:
                genes[gene] = best[gene]
        return tuple(genes)

    def _more(self, gene: int, option: int, cost: str) -> int:
        found: int = getattr(self.cost_table[gene][option], cost)
        return found

    def neighbours(self, genes: Genes) -> Iterator[Genes]:
        """All candidates in which one edge has another operation, or one input of a node comes, with any
        operation, from another node: by edge and operation."""
        self.check(genes)
        for gene, own in enumerate(genes):
            if own != NONE:
                for value in self.kept[gene]:
                    if value not in (own, NONE):
                        yield (*genes[:gene], value, *genes[gene + 1 :])
                continue
            for left in self._node_of[gene]:
                if genes[left] != NONE:
                    for value in self.kept[gene]:
                        if value != NONE:
                            moved = list(genes)
                            moved[left], moved[gene] = NONE, value
                            yield tuple(moved)


@lru_cache(maxsize=4096)
def completions(kept: Kept) -> tuple[tuple[int, ...], ...]:
    """In how many ways the edges with these options let something through: [i][k], from edge i on, exactly k
    of them; k from 0 to `INPUTS`, and 0 ways for one more, which is what [-1] finds."""
    ways = [(1, *[0] * (INPUTS + 1))]
    for values in reversed(kept):
        live, none, after = sum(value != NONE for value in values), NONE in values, ways[0]
        found = [none * after[k] + (live * after[k - 1] if k else 0) for k in range(INPUTS + 1)]
        ways.insert(0, (*found, 0))
    return tuple(ways)


def cell(genes: Genes) -> Graph:
    """Of the options of the 14 edges. ``none`` edges are in it: they say that nothing flows there."""
    edges = [
        Edge(source=source, target=target, slot=source, operation=OPTIONS[gene].operation)
        for (source, target), gene in zip(EDGES, genes, strict=True)
    ]
    edges += [Edge(source=node, target=OUTPUT, slot=slot) for slot, node in enumerate(NODES)]
    nodes = [Node(id=node) for node in (0, 1, *NODES)]
    return Graph(
        nodes=(*nodes, Node(id=OUTPUT, aggregation="concat")),
        edges=tuple(edges),
        inputs=(0, 1),
        output=OUTPUT,
    )
