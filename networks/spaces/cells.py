"""Cells of two inputs in which every link may come from any node before and have any operation: what NAT
draws from and rewrites (1910.14488; NAT spec sections 1, 2 and 4).

A gene is a link of the normal or of the reduction cell, in node and slot order: a source and an operation,
chosen together. So genes are independent of each other, their costs add up, and drawing each of them
uniformly is NAT's p(.), with links that are not there among the draws.
"""

import random
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from networks.architecture import Architecture, Shape
from networks.cells import (
    INPUTS,
    WORDS,
    Cell,
    CellSettings,
    Genotype,
    Link,
    Links,
    cell_architecture,
    parse_genotype,
)
from networks.errors import UserError
from networks.genotypes import published
from networks.graph import Edge, Graph, Node
from networks.spaces.choices import ChoiceSpace, Kept, Option, Site
from networks.spaces.space import Genes

Vocabulary = Literal["nat", "nat_loose", "nat++"]
NULL = "N"
# Spec 1.3. In the released order, with what is not there last.
VOCABULARIES: dict[Vocabulary, tuple[str, ...]] = {
    "nat": ("max3", "avg3", "S", "sep3", "sep5", "dil3", "dil5", "c3", NULL),
    "nat_loose": ("max3", "avg3", "S", "sep3", "sep5", "c1", "c3", "c5", NULL),
    "nat++": (
        "max3", "max5", "avg3", "avg5", "S", "sep3", "sep5", "dil3", "dil5", "c1", "c3", "c5", NULL,
    ),
}  # fmt: skip
CELLS = ("normal", "reduction")


class CellsSettings(CellSettings):
    """`nodes`: computing nodes of a cell. `operations`: NAT's sets of them, or NAT++'s. `null`: whether draws
    have links that are not there; NAT's release draws none, so that it never learns to add one (spec 4.2).
    `outputs`: the nodes that a cell may join in its output, as lists of them; none: all of its nodes. With
    several lists which one it is belongs to a candidate, as the hand-crafted cells need, whose output is
    their last node. The defaults are the supernet's of NAT's release.
    """

    channels: int = Field(20, ge=4)
    cells: int = Field(8, ge=3)
    regime: Literal["imagenet", "cifar"] = "cifar"
    nodes: int = Field(4, ge=1, le=8)
    operations: Vocabulary = "nat"
    null: bool = True
    outputs: tuple[tuple[int, ...], ...] = ()

    @property
    def inner(self) -> tuple[int, ...]:
        """The computing nodes."""
        return tuple(range(INPUTS, INPUTS + self.nodes))

    @property
    def joins(self) -> tuple[tuple[int, ...], ...]:
        """What a cell may join."""
        return self.outputs or (self.inner,)

    @model_validator(mode="after")
    def _check_outputs(self) -> Self:
        for position, some in enumerate(self.outputs):
            sound = (
                set(some) <= set(self.inner) and self.inner[-1] in some and list(some) == sorted(set(some))
            )
            if not sound or some in self.outputs[:position]:
                allowed = f"nodes of {self.inner[0]} to {self.inner[-1]}, ascending, the last among them"
                raise UserError(f"outputs.{position}", list(some), f"{allowed}, each list once")
        return self


class CellsSpace(ChoiceSpace):
    """stem, cells, average pool, linear.

    The graph has an edge for every source and slot of every node; a link lets one of them through. In a
    supernet both slots of a node share the weights of what comes from one source (`twins`).
    """

    kind = "cells"
    cell_names = CELLS

    def __init__(self, settings: CellsSettings, image: Shape, classes: int) -> None:
        self.settings, self.image, self.classes = settings, image, classes
        self.vocabulary = VOCABULARIES[settings.operations]

    @cached_property
    def targets(self) -> tuple[int, ...]:
        """The node that each link of one cell leads to."""
        return tuple(INPUTS + link // INPUTS for link in range(INPUTS * self.settings.nodes))

    @cached_property
    def positions(self) -> tuple[str, ...]:
        links = [f"{target}{'ab'[link % INPUTS]}" for link, target in enumerate(self.targets)]
        found = tuple(f"{cell} {link}" for cell in CELLS for link in links)
        return found + (tuple(f"{cell} out" for cell in CELLS) if len(self.settings.joins) > 1 else ())

    @property
    def linked(self) -> int:
        return len(CELLS) * len(self.targets)

    @cached_property
    def options(self) -> tuple[tuple[Option, ...], ...]:
        """``sep3(0)``, by source and then by operation."""
        one = tuple(
            tuple(
                Option(f"{word}({source})", WORDS[word][1])
                for source in range(target)
                for word in self.vocabulary
            )
            for target in self.targets
        )
        outs = tuple(Option(f"out={','.join(map(str, some))}", "identity") for some in self.settings.joins)
        return one * len(CELLS) + ((outs,) * len(CELLS) if len(outs) > 1 else ())

    @cached_property
    def _edges(self) -> tuple[tuple[int, int], ...]:
        """The link and the source of each edge of a cell's graph, but for those into its output."""
        return tuple((link, source) for link, target in enumerate(self.targets) for source in range(target))

    @cached_property
    def sites(self) -> dict[Site, int]:
        first = {name: number * len(self.targets) for number, name in enumerate(CELLS)}
        found = {
            Site(number, edge): first[stage.graph] + link
            for number, stage in enumerate(self.template.stages)
            if isinstance(stage.graph, str)
            for edge, (link, _) in enumerate(self._edges)
        }
        if len(self.settings.joins) > 1:
            found |= {
                Site(number, len(self._edges) + slot): self.linked + CELLS.index(stage.graph)
                for number, stage in enumerate(self.template.stages)
                if isinstance(stage.graph, str)
                for slot in range(len(self._everywhere))
            }
        return found

    @cached_property
    def _everywhere(self) -> tuple[int, ...]:
        """The nodes that any candidate joins."""
        return tuple(sorted(set().union(*self.settings.joins)))

    @cached_property
    def template(self) -> Architecture:
        """Its cells join every node that any candidate joins."""
        graph = self._graph((0,) * len(self.targets), self._everywhere)
        return self._skeleton.model_copy(update={"cells": dict.fromkeys(CELLS, graph)})

    @cached_property
    def twins(self) -> Mapping[int, int]:
        places = {pair: edge for edge, pair in enumerate(self._edges)}
        return {edge: places[link - 1, source] for (link, source), edge in places.items() if link % INPUTS}

    def at(self, gene: int, option: int, edge: Edge) -> str:
        if gene >= self.linked:
            return "identity" if edge.source in self.settings.joins[option] else "none"
        source, word = divmod(option, len(self.vocabulary))
        return WORDS[self.vocabulary[word]][1] if edge.source == source else "none"

    def built(self, genes: Genes) -> Architecture:
        half, outs = len(self.targets), genes[self.linked :] or (0,) * len(CELLS)
        cells = {
            name: self._graph(genes[number * half : (number + 1) * half], self.settings.joins[out])
            for number, (name, out) in enumerate(zip(CELLS, outs, strict=True))
        }
        return self._skeleton.model_copy(update={"cells": cells})

    @cached_property
    def _skeleton(self) -> Architecture:
        nothing = self._graph((len(self.vocabulary) - 1,) * len(self.targets), self._everywhere)
        return cell_architecture(self.settings, self.image, self.classes, nothing, nothing)

    def _graph(self, options: Genes, joined: Sequence[int]) -> Graph:
        """Of the options of one cell's links. Edges that are closed are in it: nothing flows there."""
        output, edges = self.settings.inner[-1] + 1, []
        for link, source in self._edges:
            target = self.targets[link]
            edge = Edge(source=source, target=target, slot=INPUTS * source + link % INPUTS)
            edges.append(edge.model_copy(update={"operation": self.at(link, options[link], edge)}))
        edges += [Edge(source=node, target=output, slot=slot) for slot, node in enumerate(joined)]
        nodes = [Node(id=node) for node in range(output)]
        return Graph(
            nodes=(*nodes, Node(id=output, aggregation="concat")),
            edges=tuple(edges),
            inputs=tuple(range(INPUTS)),
            output=output,
        )

    def draw(self, kept: Kept, rng: random.Random) -> Genes:
        if self.settings.null:
            return super().draw(kept, rng)
        size = len(self.vocabulary)
        present = [[one for one in values if one % size != size - 1] or values for values in kept]
        return super().draw(tuple(map(tuple, present)), rng)

    # As genotypes ------------------------------------------------------------------------------------

    def genotype(self, genes: Genes) -> Genotype:
        size = len(self.vocabulary)
        links = [Link(self.vocabulary[gene % size], gene // size) for gene in genes[: self.linked]]
        pairs = list(zip(links[::INPUTS], links[1::INPUTS], strict=True))
        normal, reduction = (self.settings.joins[out] for out in genes[self.linked :] or (0,) * len(CELLS))
        half = len(pairs) // len(CELLS)
        return Genotype(Cell(tuple(pairs[:half]), normal), Cell(tuple(pairs[half:]), reduction))

    def genes_of(self, genotype: Genotype) -> Genes:
        """Raises `UserError` for a cell of another size or with another output, and for operations that are
        not in the vocabulary."""
        genes = []
        for name, cell in zip(CELLS, genotype, strict=True):
            if len(cell.nodes) != self.settings.nodes:
                raise UserError(
                    f"{name}: nodes", len(cell.nodes), f"{self.settings.nodes}, as space.nodes says"
                )
            for word, source in (link for links in cell.nodes for link in links):
                if word not in self.vocabulary:
                    sets = [one for one in get_args(Vocabulary) if word in VOCABULARIES[one]]
                    fix = f"It is in space.operations: {', '.join(sets)}." if sets else ""
                    raise UserError(f"{name}: operation", word, ", ".join(self.vocabulary), fix)
                genes.append(source * len(self.vocabulary) + self.vocabulary.index(word))
        outs = []
        for name, cell in zip(CELLS, genotype, strict=True):
            joined, joins = tuple(sorted(cell.joined)), self.settings.joins
            if joined not in joins:
                wanted = [list(some) for some in dict.fromkeys([*joins, joined])]
                allowed = ", ".join(str(list(some)) for some in joins)
                raise UserError(f"{name}: out", list(joined), allowed, f"space.outputs={wanted} has it too.")
            outs.append(joins.index(joined))
        return tuple(genes) + (tuple(outs) if len(self.settings.joins) > 1 else ())

    def parse(self, text: str) -> Genes:
        """Either notation of genotypes, or the name of a published one."""
        named = re.fullmatch(r"[\w-]+", text.strip())
        return self.genes_of(published(named[0]) if named else parse_genotype(text))

    def names(self, genes: Genes) -> dict[str, object]:
        """Each link, and `genotype`."""
        return {**super().names(genes), "genotype": str(self.genotype(genes))}

    # For what rewrites candidates --------------------------------------------------------------------

    def becomes(self, gene: int, option: int) -> dict[str, int]:
        size = len(self.vocabulary)
        start = option - option % size
        return {word: start + number for number, word in enumerate(self.vocabulary)}

    def cells(self, genes: Genes) -> tuple[Links, ...]:
        return tuple(cell.links for cell in self.genotype(genes))
