"""Cells with two inputs as genotypes: parsed, printed, wired as graphs, and stacked to networks.

A cell has nodes 0 and 1 (the outputs of the two cells before, the older one first) and computing nodes from 2
on, each the sum of two operations on nodes before it; its output joins some of them (DARTS, 1806.09055; NAT
spec 1.1). A genotype is a normal and a reduction cell.
"""

import ast
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from networks.architecture import Architecture, Head, Shape, Stage, Stem
from networks.errors import UserError, nearest
from networks.graph import Edge, Graph, Node, single_edge

INPUTS = 2  # of a cell, and of each of its nodes
# What a word of a genotype stands for in the network that is built of it, by its short and its long name.
WORDS = {
    "N": ("none", "none"),
    "S": ("skip_connect", "darts_skip"),
    "c1": ("conv_1x1", "triplet_conv_1x1"),
    "c3": ("conv_3x3", "triplet_conv_3x3"),
    "c5": ("conv_5x5", "triplet_conv_5x5"),
    "sep3": ("sep_conv_3x3", "darts_sep_conv_3x3"),
    "sep5": ("sep_conv_5x5", "darts_sep_conv_5x5"),
    "sep7": ("sep_conv_7x7", "darts_sep_conv_7x7"),
    "dil3": ("dil_conv_3x3", "darts_dil_conv_3x3"),
    "dil5": ("dil_conv_5x5", "darts_dil_conv_5x5"),
    "avg2": ("avg_pool_2x2", "avg_pool_2x2"),
    "avg3": ("avg_pool_3x3", "avg_pool_3x3"),
    "avg5": ("avg_pool_5x5", "avg_pool_5x5"),
    "max2": ("max_pool_2x2", "max_pool_2x2"),
    "max3": ("max_pool_3x3", "max_pool_3x3"),
    "max5": ("max_pool_5x5", "max_pool_5x5"),
    "c1x3": ("conv_3x1_1x3", "triplet_conv_1x3_3x1"),
    "c1x7": ("conv_7x1_1x7", "triplet_conv_1x7_7x1"),
}
ALIASES = {"null": "N", "c7x1": "c1x7", "c3x1": "c1x3", **{long: short for short, (long, _) in WORDS.items()}}
SHORT = {operation: short for short, (_, operation) in WORDS.items()} | dict.fromkeys(
    ("identity", "padded_skip", "projected_skip"), "S"
)
NODE = re.compile(r"(\d+)=(\w+)\((\d+)\)\+(\w+)\((\d+)\)")


class Links(NamedTuple):
    """What a policy sees of a cell: of each link its ends (source, target) and its operation, a word of
    `WORDS`. Spaces say in which order. `joined`: the nodes of the output, where they are not those that
    nobody reads."""

    ends: tuple[tuple[int, int], ...]
    words: tuple[str, ...]
    joined: tuple[int, ...] = ()


class Link(NamedTuple):
    """An edge into a node: a word of `WORDS`, and the node that it reads."""

    operation: str
    source: int


class Cell(NamedTuple):
    """`nodes`: the two links of each computing node, in slot order, from node 2 on. `joined`: the nodes whose
    outputs stand side by side in the cell's output."""

    nodes: tuple[tuple[Link, Link], ...]
    joined: tuple[int, ...]

    def __str__(self) -> str:
        """``2=sep3(0)+sep3(1); 3=S(0)+N(2); out=2,3``."""
        words = [
            f"{number}={'+'.join(f'{operation}({source})' for operation, source in links)}"
            for number, links in enumerate(self.nodes, start=INPUTS)
        ]
        return "; ".join([*words, f"out={','.join(map(str, self.joined))}"])

    @property
    def operations(self) -> tuple[str, ...]:
        """Of all links, node by node."""
        return tuple(link.operation for links in self.nodes for link in links)

    @property
    def links(self) -> Links:
        """All of them, node by node and slot by slot."""
        ends = tuple(
            (link.source, target) for target, links in enumerate(self.nodes, INPUTS) for link in links
        )
        return Links(ends, self.operations, self.joined)

    def with_operations(self, operations: Sequence[str]) -> "Cell":
        """The same wiring with these instead, in the order of `operations`."""
        if len(operations) != INPUTS * len(self.nodes):
            raise UserError("operations", list(operations), f"{INPUTS * len(self.nodes)} of them")
        words = iter(operations)
        nodes = tuple((Link(next(words), a.source), Link(next(words), b.source)) for a, b in self.nodes)
        return self._replace(nodes=nodes)

    @property
    def graph(self) -> Graph:
        """The wiring of a stage. Links without anything are in it: they say that nothing flows there."""
        output = INPUTS + len(self.nodes)
        edges = [
            Edge(source=source, target=number, slot=slot, operation=WORDS[operation][1])
            for number, links in enumerate(self.nodes, start=INPUTS)
            for slot, (operation, source) in enumerate(links)
        ]
        edges += [Edge(source=node, target=output, slot=slot) for slot, node in enumerate(self.joined)]
        nodes = [Node(id=node) for node in range(output)]
        return Graph(
            nodes=(*nodes, Node(id=output, aggregation="concat")),
            edges=tuple(edges),
            inputs=tuple(range(INPUTS)),
            output=output,
        )


class Genotype(NamedTuple):
    """Two cells, of which a whole network is stacked."""

    normal: Cell
    reduction: Cell

    def __str__(self) -> str:
        return f"normal {self.normal} | reduction {self.reduction}"

    @property
    def darts(self) -> str:
        """In the notation of DARTS's code and of those that grew from it."""
        parts = []
        for name, cell in (("normal", self.normal), ("reduce", self.reduction)):
            links = ", ".join(
                f"('{WORDS[word][0]}', {source})" for links in cell.nodes for word, source in links
            )
            parts += [f"{name}=[{links}]", f"{name}_concat={list(cell.joined)}"]
        return f"Genotype({', '.join(parts)})"


def parse_genotype(text: str) -> Genotype:
    """Either notation. Raises `UserError` for anything else, and says what is wrong with it."""
    text = text.strip()
    if text.startswith("Genotype"):
        return _from_darts(text)
    parts = dict(part.strip().partition(" ")[::2] for part in text.split("|"))
    if set(parts) != {"normal", "reduction"}:
        raise UserError("genotype", text, "normal 2=sep3(0)+S(1); …; out=2,… | reduction 2=…")
    return Genotype(parse_cell(parts["normal"], "normal"), parse_cell(parts["reduction"], "reduction"))


def parse_cell(text: str, field: str = "cell") -> Cell:
    """``2=sep3(0)+sep3(1); 3=…; out=2,3``. Without ``out`` the nodes that no other reads are joined."""
    nodes: list[tuple[Link, Link]] = []
    joined: tuple[int, ...] | None = None
    for part in filter(None, (one.strip() for one in text.replace(" ", "").split(";"))):
        if part.startswith("out="):
            joined = tuple(int(node) if node.isdecimal() else -1 for node in part[4:].split(","))
            continue
        found = NODE.fullmatch(part)
        number = INPUTS + len(nodes)
        if found is None or int(found[1]) != number:
            allowed = f"{number}=OPERATION(NODE)+OPERATION(NODE), two inputs for each node, in order"
            raise UserError(field, part, allowed)
        nodes.append((Link(found[2], int(found[3])), Link(found[4], int(found[5]))))
    return _checked(nodes, joined, field)


def _from_darts(text: str) -> Genotype:
    allowed = "Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=[2, …], reduce=[…], reduce_concat=[…])"
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("no call with named arguments")
        given = {str(one.arg): _literal(one.value) for one in call.keywords}
        links = {name: [Link(str(a), int(b)) for a, b in given[name]] for name in ("normal", "reduce")}
        joined = {name: tuple(map(int, given[f"{name}_concat"])) for name in links}
    except (SyntaxError, ValueError, TypeError, KeyError) as error:
        raise UserError("genotype", text[:80], allowed, str(error)) from None
    cells = []
    for name, some in links.items():
        if len(some) % INPUTS:
            raise UserError(name, given[name], "two inputs for each node")
        pairs = list(zip(some[::INPUTS], some[1::INPUTS], strict=True))
        cells.append(_checked(pairs, joined[name], name))
    return Genotype(*cells)


def _literal(node: ast.expr) -> Any:
    """Its value; ``range(2, 6)`` is one too."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        return list(range(*(ast.literal_eval(one) for one in node.args)))
    return ast.literal_eval(node)


def _checked(nodes: Sequence[tuple[Link, Link]], joined: tuple[int, ...] | None, field: str) -> Cell:
    """With short names. Raises `UserError`."""
    if not nodes:
        raise UserError(field, "", "one node or more")
    named = []
    for number, links in enumerate(nodes, start=INPUTS):
        for operation, source in links:
            if ALIASES.get(operation, operation) not in WORDS:
                fix = nearest(operation, [*WORDS, *ALIASES])
                raise UserError(f"{field}: node {number}", operation, ", ".join(WORDS), fix)
            if not 0 <= source < number:
                allowed = f"a node before it, 0 to {number - 1}"
                raise UserError(f"{field}: node {number} reads", source, allowed)
        first, second = (Link(ALIASES.get(word, word), source) for word, source in links)
        named.append((first, second))
    last, read = INPUTS + len(named) - 1, {link.source for links in named for link in links}
    inner = range(INPUTS, last + 1)
    joined = tuple(node for node in inner if node not in read) if joined is None else joined
    if not joined or len(set(joined)) != len(joined) or not set(joined) <= set(inner):
        raise UserError(f"{field}: out", list(joined), f"some of the nodes 2 to {last}, each once")
    idle = sorted(set(inner) - read - set(joined))
    if idle:
        raise UserError(f"{field}: out", list(joined), f"with {idle} too, which nothing reads")
    return Cell(tuple(named), joined)


# Networks ----------------------------------------------------------------------------------------


class CellSettings(BaseModel):
    """`channels`: of the operations in the first cells, doubled in the two cells that halve the size, which
    follow the first and the second third of all `cells`. `regime`: ``imagenet`` (a stem that divides the size
    by eight) or ``cifar`` (one of three times the channels, at full size)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(48, ge=4)
    cells: int = Field(14, ge=3)
    regime: Literal["imagenet", "cifar"] = "imagenet"

    @property
    def halving(self) -> tuple[int, int]:
        """Which cells are reductions."""
        return self.cells // 3, 2 * self.cells // 3


def cell_architecture(
    settings: CellSettings, image: Shape, classes: int, normal: Graph, reduction: Graph
) -> Architecture:
    """stem, cells, average pool, linear. With ``imagenet``, a strided convolution before the first cell."""
    stages, width, large = [], settings.channels, settings.regime == "imagenet"
    if large:
        strided = single_edge("triplet_conv_3x3")
        stages.append(Stage(graph=strided, channels=width, stride=2, rule="edges_from_inputs"))
    for number in range(settings.cells):
        halves = number in settings.halving
        width *= 2 if halves else 1
        graph, stride = ("reduction", 2) if halves else ("normal", 1)
        stages.append(Stage(graph=graph, channels=width, stride=stride, rule="edges_from_inputs"))
    stem = Stem(kind="imagenet_small", channels=settings.channels)
    return Architecture(
        image=image,
        classes=classes,
        stem=stem if large else Stem(kind="cifar", channels=3 * settings.channels),
        stages=tuple(stages),
        head=Head(kind="plain", channels=None),
        cells={"normal": normal, "reduction": reduction},
    )
