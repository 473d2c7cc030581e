"""What a given network can be rewritten to: its own links, and some that could be added.

A gene is a link between two nodes of a stage. It is as it was given (option 0), a skip connection, or not
there; with ``nat++`` also any of that vocabulary's operations. So the given network is the candidate whose
genes are all 0, and all that NAT's rules can make of it is in the space.

This is how NAT's rules are read for networks that are no cells of two inputs (NAT spec 1.4, where the source
leaves it open): links that pass something on unchanged are S, those that compute are O, and a hook (N) into
a node comes from the nearest nodes before it that it does not read yet. A link without which nothing would
reach the end of its stage cannot go. RandWire's networks have their operations in their nodes, which stay;
their links are all S.
"""

import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import networkx as nx
from pydantic import BaseModel, ConfigDict, Field

from networks.architecture import Architecture, Placements, Shape, StrideRule
from networks.cells import SHORT, WORDS, Links
from networks.errors import UserError
from networks.graph import Edge, EdgeWeight, Graph
from networks.liveness import is_dead
from networks.operations import find_operation
from networks.spaces.cells import VOCABULARIES
from networks.spaces.choices import ChoiceSpace, Kept, Option, Site
from networks.spaces.space import Genes, drawn
from networks.standard import standard

SKIP, NONE, RESIZED_SKIP = "identity", "none", "darts_skip"
REDRAWN = 20
FIXED = ("concat", "mean")  # what a node that joins or averages reads, stays


class NetworkSettings(BaseModel):
    """`architecture`: a network of yours, or the name of a standard one (networks/standard.py), which is then
    made for the images and classes of the data. `hooks`: how many links that are not there may be added into
    each node. `operations`: what a link may become, besides a skip connection and nothing: ``own`` (itself),
    or one of ``nat++``. `keep`: with which probability a link of a random candidate is as it was given, where
    it is not drawn: of networks of which half is cut little is learnt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Architecture | str
    hooks: int = Field(1, ge=0)
    operations: Literal["own", "nat++"] = "own"
    keep: float = Field(0.5, ge=0, lt=1)


class Place(NamedTuple):
    """A link of a graph that may be rewritten. `graph`: the name of a cell, or the position of the stage."""

    graph: str | int
    edge: Edge
    options: tuple[Option, ...]


class RewiredSpace(ChoiceSpace):
    """Raises `UserError` for a network without a link that can be rewritten, and for images or classes other
    than its own."""

    kind = "network"
    ends = ()

    def __init__(self, settings: NetworkSettings, image: Shape, classes: int) -> None:
        given = settings.architecture
        self.settings = settings
        self.given = standard(given, image, classes) if isinstance(given, str) else given
        if self.given.image != image:
            raise UserError("architecture.image", list(self.given.image), f"{list(image)}, as the data has")
        if self.given.classes != classes:
            raise UserError("architecture.classes", self.given.classes, f"{classes}, as the data has")
        if not self.places:
            allowed = "a network with links that pass on, cut or compute, between nodes that add them up"
            raise UserError("architecture", self.given.digest[:12], allowed)

    @cached_property
    def graphs(self) -> dict[str | int, Graph]:
        """Every graph with its hooks, which carry nothing: cells by name, and those of single stages."""
        found: dict[str | int, Graph] = {}
        for position, stage in enumerate(self.given.stages):
            key = stage.graph if isinstance(stage.graph, str) else position
            if key not in found:
                found[key] = hooked(self.given.graph(position), stage.rule, self.settings.hooks)
        return found

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """The links that may be rewritten: graph by graph, in the order of their edges."""
        found = []
        shapes = self.given.stage_shapes()
        for key, graph in self.graphs.items():
            where = [n for n, stage in enumerate(self.given.stages) if key in (n, stage.graph)]
            placements = [
                Placements(graph, self.given.stages[n], *self.given.entries(n, shapes)) for n in where
            ]
            halves = any(self.given.stages[n].rule == "sources" for n in where)  # in what reads an input
            needed = bridges(graph)
            for edge in graph.edges:
                at = [one.edge(edge) for one in placements]
                keeps = all((place.entry.c, place.stride) == (place.c_out, 1) for place in at)
                stays = halves and edge.source in graph.inputs
                if stays or graph.aggregation_of[edge.target] in FIXED:
                    continue
                options = self._options(edge, keeps, edge in needed)
                if len(options) > 1:
                    found.append(Place(key, edge, options))
        return tuple(found)

    def _options(self, edge: Edge, keeps: bool, needed: bool) -> tuple[Option, ...]:
        """What may stand there, itself first. `keeps`: it keeps width and size."""
        own = Option(word_of(edge.operation), edge.operation)
        category = find_operation(edge.operation).category
        found = {own.word: own}
        if category == "O" and self.settings.operations == "nat++" and own.word in VOCABULARIES["nat++"]:
            found |= {
                word: Option(word, WORDS[word][1]) for word in VOCABULARIES["nat++"] if word not in found
            }
            found |= {own.word: own}
        if category != "S":
            found["S"] = Option("S", SKIP if keeps else RESIZED_SKIP)
        if needed:
            found.pop("N", None)
        elif category != "N":
            found["N"] = Option("N", NONE)
        return tuple(found.values())

    @cached_property
    def positions(self) -> tuple[str, ...]:
        names = []
        for key, edge, _ in self.places:
            graph, where = self.graphs[key], key if isinstance(key, str) else f"stage {key + 1}"
            ends = [(other.source, other.target) for other in graph.edges]
            slot = f" ({edge.slot})" if ends.count((edge.source, edge.target)) > 1 else ""
            names.append(f"{where} {edge.source}-{edge.target}{slot}")
        return tuple(names)

    @cached_property
    def options(self) -> tuple[tuple[Option, ...], ...]:
        return tuple(place.options for place in self.places)

    @cached_property
    def sites(self) -> dict[Site, int]:
        genes = {(place.graph, place.edge): gene for gene, place in enumerate(self.places)}
        return {
            Site(position, number): genes[key, edge]
            for position, stage in enumerate(self.given.stages)
            for key in [stage.graph if isinstance(stage.graph, str) else position]
            for number, edge in enumerate(self.graphs[key].edges)
            if (key, edge) in genes
        }

    @cached_property
    def template(self) -> Architecture:
        """With every link that there can be, so that a supernet has a weight for each that is weighed."""
        there = [
            next(n for n, one in enumerate(place.options) if one.operation != NONE) for place in self.places
        ]
        return self.built(tuple(there))

    def built(self, genes: Genes) -> Architecture:
        chosen: dict[str | int, dict[Edge, str]] = {}
        for place, gene in zip(self.places, genes, strict=True):
            chosen.setdefault(place.graph, {})[place.edge] = place.options[gene].operation
        graphs = {key: _rewritten(graph, chosen.get(key, {})) for key, graph in self.graphs.items()}
        stages = tuple(
            stage if isinstance(stage.graph, str) else stage.model_copy(update={"graph": graphs[position]})
            for position, stage in enumerate(self.given.stages)
        )
        cells = {name: graphs[name] for name in self.given.cells if name in graphs}
        fields = {name: getattr(self.given, name) for name in Architecture.model_fields}
        changed = {"stages": stages, "cells": {**self.given.cells, **cells}}
        return Architecture.model_construct(**{**fields, **changed})

    def draw(self, kept: Kept, rng: random.Random) -> Genes:
        """Again, so many times at most, where nothing would come through: little is learnt from those."""
        keep = self.settings.keep
        for _ in range(REDRAWN):
            genes = tuple(0 if 0 in some and rng.random() < keep else drawn(some, rng) for some in kept)
            if not is_dead(self.built(genes)):
                break
        return genes

    # For what rewrites candidates --------------------------------------------------------------------

    def parse(self, text: str) -> Genes:
        """``given``: the network itself."""
        if text.strip() != "given":
            raise UserError("genes", text, "given: the network of the space, or a list of numbers")
        return (0,) * len(self.places)

    def becomes(self, gene: int, option: int) -> Mapping[str, int]:
        return self._by_word[gene]

    @cached_property
    def _by_word(self) -> tuple[dict[str, int], ...]:
        return tuple({one.word: number for number, one in enumerate(place.options)} for place in self.places)

    def cells(self, genes: Genes) -> tuple[Links, ...]:
        """All stages as one cell, their nodes numbered on, so that every link has the same policy."""
        words = tuple(place.options[gene].word for place, gene in zip(self.places, genes, strict=True))
        return (Links(self._ends, words),)

    @cached_property
    def _ends(self) -> tuple[tuple[int, int], ...]:
        first, at = {}, 0
        for key, graph in self.graphs.items():
            first[key] = at - min(node.id for node in graph.nodes)
            at += 1 + max(node.id for node in graph.nodes) - min(node.id for node in graph.nodes)
        return tuple((first[key] + edge.source, first[key] + edge.target) for key, edge, _ in self.places)


def word_of(operation: str) -> str:
    """Of a link's operation, as policies know it: a word of cells, or its own name."""
    return SHORT.get(operation, operation)


def hooked(graph: Graph, rule: StrideRule, hooks: int) -> Graph:
    """The graph with so many links more into each node, of which none carries anything."""
    edges, order = list(graph.edges), graph.order
    inputs = set(graph.inputs) if rule == "sources" else set()
    for place, node in enumerate(order):
        read = {edge.source for edge in graph.incoming[node]}
        if node in graph.inputs or graph.aggregation_of[node] in FIXED or read & inputs:
            continue
        new = [other for other in reversed(order[:place]) if other not in read | inputs][:hooks]
        edges += [
            Edge(source=other, target=node, slot=len(graph.incoming[node]) + slot, operation=NONE)
            for slot, other in enumerate(new)
        ]
    return _with(graph, edges)


def bridges(graph: Graph) -> frozenset[Edge]:
    """The links without any one of which nothing of the inputs would reach the output."""
    live = [edge for edge in graph.edges if edge.operation != NONE]

    def reaches(edges: list[Edge]) -> bool:
        flow = nx.DiGraph([(edge.source, edge.target) for edge in edges])
        flow.add_nodes_from([*graph.inputs, graph.output])
        return any(nx.has_path(flow, node, graph.output) for node in graph.inputs)

    return frozenset(edge for edge in live if not reaches([other for other in live if other is not edge]))


def _rewritten(graph: Graph, chosen: Mapping[Edge, str]) -> Graph:
    """With these operations. A link that carries nothing has no weight; one that is added where others are
    weighed has one."""
    kinds: dict[int, EdgeWeight] = {edge.target: edge.weight for edge in graph.edges if edge.weight != "none"}
    edges = []
    for edge in graph.edges:
        operation = chosen.get(edge, edge.operation)
        if edge in chosen:
            weight = "none" if operation == NONE else kinds.get(edge.target, "none")
            edge = edge.model_copy(update={"operation": operation, "weight": weight})
        edges.append(edge)
    return _with(graph, edges)


def _with(graph: Graph, edges: Sequence[Edge]) -> Graph:
    """The graph with these edges. Not validated; a copy would keep what was found out about the old ones."""
    return Graph.model_construct(
        nodes=graph.nodes, edges=tuple(edges), inputs=graph.inputs, output=graph.output
    )
