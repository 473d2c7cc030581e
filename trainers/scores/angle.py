"""The angle by which a path's weights have turned in training (ABS, 2004.13431; RLNAS, 2101.11834).

angle(a) = arccos(<V(a, W0), V(a, Wt)> / |V(a, W0)| |V(a, Wt)|), from 0 to pi, in radians. V(a, W) joins, for
each path through each cell that no `none` cuts, what the searched operations on it contribute: convolutions
their weights, a k x k pooling the constant 1/k^2 of shape (C_out, k, k), an identity nothing; batch
normalisations and biases in them do not count. What k paths share is in V k times: so V sees the topology.
To that come all parameters of the parts that every path has, once (angle spec section 2).

A limitation: batch normalisation undoes the scale of a convolution before it, so weights that differ by such
scales compute the same and have other angles, unless all blocks are scaled alike (A8).

Inner products add up over the parts of V, so those of each option are computed once, and a path's angle is a
sum over the table (A11).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from networks.errors import UserError
from networks.graph import Graph
from networks.operations import find_operation
from networks.spaces.choices import ChoiceSpace, Site
from networks.spaces.paths import Path, graph_paths, last_paths
from networks.spaces.space import Genes
from networks.supernet import Supernet, SuperStage
from trainers.scores.accuracy import supernet_of
from trainers.scores.memory import remembered
from trainers.scores.score import Bench

Floats = NDArray[np.float64]
Pair = tuple[Tensor, Tensor]
Parts = Literal["all", "searched"]
Ends = Literal["all", "last"]
POOLINGS = (nn.AvgPool2d, nn.MaxPool2d)


class Cells(NamedTuple):
    """Stages with the same paths. All arrays are by searched edge of these stages.

    genes: (edges,), which gene rules it. paths: (paths, edges), whether it lies on the path. alive: (edges,
    options), whether the option lets anything through. products: (edges, options, 3), `inner` of what the
    option contributes, summed over the stages.
    """

    genes: NDArray[np.intp]
    paths: NDArray[np.bool_]
    alive: NDArray[np.bool_]
    products: Floats


class AngleTable:
    """The inner products of a supernet's options at one moment of its training.

    They are those of W0 and of r = Wt - scale W0, for the one scale that makes r smallest: from them small
    angles come out as exactly as large ones, while 1 - cosine would lose half of the digits.
    """

    def __init__(self, space: ChoiceSpace, scale: float, fixed: Floats, cells: Sequence[Cells]) -> None:
        self.space, self.scale, self.fixed, self.cells = space, scale, fixed, tuple(cells)

    @classmethod
    def of(
        cls,
        supernet: Supernet,
        initial: Mapping[str, Tensor],
        parts: Parts = "all",
        paths: Callable[[Graph], Sequence[Path]] = graph_paths,
    ) -> "AngleTable":
        """`initial`: the parameters before training, by the supernet's names. `parts`: with those that
        every path has, as released, or the searched ones alone: on small supernets the others hide the
        signal. `paths`: the paths that count, from a stage's graph. Raises `UserError` where `initial` is
        not of this supernet."""
        weights = _Weights(supernet, initial)
        space = supernet.space
        ruled: dict[int, dict[int, int]] = defaultdict(dict)
        for site, gene in sorted(space.sites.items()):
            ruled[site.stage][site.edge] = gene
        alike: dict[object, Cells] = {}
        for stage, rule in ruled.items():
            found = _cells(supernet, weights, stage, rule, paths)
            key = (found.genes.tobytes(), found.paths.shape, found.paths.tobytes(), found.alive.tobytes())
            if key in alike:
                found = found._replace(products=found.products + alike[key].products)
            alike[key] = found
        fixed = weights.inner(weights.always_there()) if parts == "all" else np.zeros(3)
        return cls(space, weights.scale, fixed, list(alike.values()))

    def angle(self, genes: Genes) -> float:
        """0 for a dead path, and for one without weights."""
        return float(self.angles([genes])[0])

    def angles(self, genes: Sequence[Genes]) -> Floats:
        """Of many candidates: float64 (candidates,)."""
        for one in genes:
            if not self.space.legal(one):
                self.space.check(one)
        return _angle(self.products(genes), self.scale)

    def products(self, genes: Sequence[Genes]) -> Floats:
        """`inner` of whole candidates: float64 (candidates, 3). Zeros for a dead one."""
        chosen = np.array(genes, dtype=np.intp).reshape(len(genes), len(self.space.options))
        total = np.repeat(self.fixed[None], len(chosen), 0)
        dead = np.zeros(len(chosen), bool)
        for rule, paths, alive, products in self.cells:
            option = chosen[:, rule]  # candidates x edges
            edge = np.arange(len(rule))
            cut = ~alive[edge, option]
            live = ~(cut @ paths.T)  # candidates x paths: no edge of the path is cut
            counts = live.astype(np.float64) @ paths  # candidates x edges: live paths through the edge
            for position in edge:
                total += counts[:, position, None] * products[position, option[:, position]]
            dead |= ~live.any(1)
        total[dead] = 0
        return total


@dataclass(frozen=True)
class Angle:
    """The angle of the whole path, as released: name angle; or of its searched operations: angle_searched.
    angle_last counts, in cells that join several nodes, the paths that end at the last of them (ABS; RLNAS
    counts all, which is angle).

    A dead candidate gets 0 (spec R4), as does one whose weights have not turned, or that has none.
    """

    parts: Parts = "all"
    ends: Ends = "all"

    @property
    def name(self) -> str:
        return {("all", "all"): "angle", ("all", "last"): "angle_last"}.get(
            (self.parts, self.ends), "angle_searched"
        )

    @property
    def needs_supernet(self) -> bool:
        return True

    @property
    def needs_batches(self) -> int:
        return 0

    def supports(self, space: ChoiceSpace) -> bool:
        template = space.template
        stages = range(len(template.stages))
        return self.ends == "all" or any(template.graph(stage).widths > 1 for stage in stages)

    def __call__(self, bench: Bench, genes: Genes) -> float:
        return self.many(bench, [genes])[0]

    def many(self, bench: Bench, genes: Sequence[Genes]) -> list[float]:
        supernet = supernet_of(bench, self.name)
        paths = graph_paths if self.ends == "all" else last_paths
        table = remembered(
            bench, self.name, None, lambda: AngleTable.of(supernet, bench.initial, self.parts, paths)
        )
        found: list[float] = table.angles(genes).tolist()
        return found


class _Weights:
    """A supernet's parameters now and before training, and inner products of parts of them."""

    def __init__(self, supernet: Supernet, initial: Mapping[str, Tensor]) -> None:
        now = {name: value.detach() for name, value in supernet.named_parameters()}
        wrong = [
            name for name, value in now.items() if name not in initial or initial[name].shape != value.shape
        ]
        if wrong or len(initial) != len(now):
            raise UserError("initial", wrong or sorted(initial), "the parameters of this supernet")
        self.supernet = supernet
        self.pairs = {name: (_flat(initial[name]), _flat(value)) for name, value in now.items()}
        before = torch.cat([pair[0] for pair in self.pairs.values()])
        after = torch.cat([pair[1] for pair in self.pairs.values()])
        self.scale = float(before @ after / (before @ before))

    def inner(self, pairs: Sequence[Pair]) -> Floats:
        """<w0, w0>, <w0, r> and <r, r> of the joined pairs, r = wt - scale w0: float64 (3,)."""
        if not pairs:
            return np.zeros(3)
        before, after = (torch.cat(side) for side in zip(*pairs, strict=True))
        rest = after - self.scale * before
        return np.array([float(before @ before), float(before @ rest), float(rest @ rest)])

    def option(self, site: Site, operation: str) -> list[Pair]:
        """What one option contributes at one site, once."""
        stage = cast(SuperStage, self.supernet.stages[site.stage])
        edge = stage.graph.edges[site.edge]
        options = stage.held(site.edge)
        if operation not in options:
            return []
        prefix = f"stages.{site.stage}.options.{stage.holder(site.edge)}.{operation}"
        found = []
        for name, module in options[operation].named_modules(prefix=prefix):
            if isinstance(module, nn.Conv2d):
                found.append(self.pairs[f"{name}.weight"])
            elif isinstance(module, POOLINGS):
                constant = _pooling(module, stage.placements.edge(edge).c_out)
                found.append((constant, constant))
        return found

    def always_there(self) -> list[Pair]:
        """The parameters outside all options."""
        searched = {
            f"stages.{number}.{name}"
            for number, stage in enumerate(self.supernet.stages)
            for name, _ in stage.named_parameters()
            if name.startswith("options.")
        }
        return [pair for name, pair in self.pairs.items() if name not in searched]


def _cells(
    supernet: Supernet,
    weights: _Weights,
    stage: int,
    rule: Mapping[int, int],
    paths: Callable[[Graph], Sequence[Path]],
) -> Cells:
    """One stage. `rule`: edge -> gene. A path that an unsearched `none` cuts is left out."""
    graph = cast(SuperStage, supernet.stages[stage]).graph
    space = supernet.space
    options = [
        [space.at(gene, option, graph.edges[edge]) for option in range(len(space.options[gene]))]
        for edge, gene in rule.items()
    ]
    alive = np.zeros((len(rule), max(map(len, options))), bool)
    products = np.zeros((*alive.shape, 3))
    for position, (edge, names) in enumerate(zip(rule, options, strict=True)):
        for number, name in enumerate(names):
            alive[position, number] = _is_open(name)
            products[position, number] = weights.inner(weights.option(Site(stage, edge), name))
    uncut = [
        path
        for path in paths(graph)
        if all(edge in rule or _is_open(graph.edges[edge].operation) for edge in path)
    ]
    on_path = np.array([[edge in path for edge in rule] for path in uncut], bool).reshape(-1, len(rule))
    return Cells(np.array(list(rule.values()), np.intp), on_path, alive, products)


def _is_open(operation: str) -> bool:
    return find_operation(operation).category != "N"


def _flat(tensor: Tensor) -> Tensor:
    # `reshape` reads by index, whatever the memory layout, so that channels_last changes nothing.
    return tensor.detach().to("cpu", torch.float64).reshape(-1)


def _pooling(module: nn.Module, channels: int) -> Tensor:
    kernel = module.kernel_size
    h, w = (kernel, kernel) if isinstance(kernel, int) else cast(tuple[int, int], kernel)
    return torch.full((channels * h * w,), 1 / (h * w), dtype=torch.float64)


def _angle(products: Floats, scale: float) -> Floats:
    """From <a, a>, <a, r>, <r, r> with b = scale a + r.

    |a|^2 |b|^2 sin^2 = |a|^2 |r|^2 - <a, r>^2 (Lagrange's identity; the multiple of a adds nothing) and
    |a| |b| cos = scale |a|^2 + <a, r>. atan2 needs no norm and no clamping.
    """
    aa, ar, rr = products.T
    sine = np.sqrt(np.maximum(aa * rr - ar * ar, 0))
    # + 0.0: without weights both are zero, and atan2(0, -0) would be pi.
    return np.arctan2(sine, scale * aa + ar + 0.0)
