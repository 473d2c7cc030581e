"""The angle as its definition says it (spec section 2): V joined piece by piece. Slow; what the table is
held to."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from networks.spaces.nasbench201 import NasBench201Space
from networks.spaces.space import Genes
from networks.supernet import Supernet

# NAS-Bench-201's paths, each as its edges: 0-3, 0-2-3, 0-1-2-3, 0-1-3.
PATHS = (("0-3",), ("0-2", "2-3"), ("0-1", "1-2", "2-3"), ("0-1", "1-3"))
# Edge -> gene and the supernet's key.
CELL = {
    "0-1": (0, "edge_0_1_0"), "0-2": (1, "edge_0_2_0"), "1-2": (2, "edge_1_2_1"),
    "0-3": (3, "edge_0_3_0"), "1-3": (4, "edge_1_3_1"), "2-3": (5, "edge_2_3_2"),
}  # fmt: skip
Weights = Mapping[str, Tensor]


def block_vector(
    supernet: Supernet, weights: Weights, genes: Genes, paths: Sequence[tuple[str, ...]] = PATHS
) -> list[Tensor] | None:
    """What the searched operations contribute, in path order; None for a dead path."""
    space = supernet.space
    found: list[Tensor] = []
    if not isinstance(space, NasBench201Space):
        for site, gene in sorted(space.sites.items()):
            name = space.options[gene][genes[gene]].operation
            found += convolutions(weights, f"stages.{site.stage}.options.edge_0_1_0.{name}.")
        return found
    live = [path for path in paths if all(genes[CELL[edge][0]] for edge in path)]
    if not live:
        return None
    for number, stage in enumerate(space.template.stages):
        if stage.graph == "cell":
            found += cell_vector(weights, genes, number, stage.channels, live)
    return found


def cell_vector(
    weights: Weights, genes: Genes, stage: int, channels: int, live: Sequence[tuple[str, ...]]
) -> Iterator[Tensor]:
    for path in live:
        for edge in path:
            gene, key = CELL[edge]
            word = ("none", "skip", "triplet_conv_1x1", "triplet_conv_3x3", "pool")[genes[gene]]
            if word == "pool":
                yield torch.full((channels, 3, 3), 1 / 9, dtype=torch.float64)
            elif word != "skip":
                yield weights[f"stages.{stage}.options.{key}.{word}.body.0.weight"]


def convolutions(weights: Weights, prefix: str) -> list[Tensor]:
    return [value for name, value in weights.items() if name.startswith(prefix) and value.ndim == 4]


def fixed_vector(weights: Weights) -> list[Tensor]:
    return [value for name, value in weights.items() if ".options." not in name]


def joined(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.detach().double().flatten() for part in parts])


def angle_between(v: Tensor, u: Tensor) -> float:
    v, u = v / v.norm(), u / u.norm()
    return 2 * math.atan2(float((v - u).norm()), float((v + u).norm()))


def naive_angle(
    supernet: Supernet,
    initial: Weights,
    genes: Genes,
    *,
    fixed: bool = True,
    paths: Sequence[tuple[str, ...]] = PATHS,
) -> float:
    vectors = []
    for weights in (initial, dict(supernet.named_parameters())):
        block = block_vector(supernet, weights, genes, paths)
        parts = (block or []) + (fixed_vector(weights) if fixed else [])
        if block is None or not parts:
            return 0.0
        vectors.append(joined(parts))
    return angle_between(*vectors)
