"""Those who train one supernet together, and who of them computes which path."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from networks.complexity import Complexity
from networks.spaces.choices import ChoiceSpace
from networks.spaces.space import Genes

MACS_AN_ELEMENT = 200


def shares(works: Sequence[int], members: int) -> list[int]:
    """The member that computes each path: the largest work first, each to whom has least to do so far."""
    owners, loads = [0] * len(works), [0] * members
    for path in sorted(range(len(works)), key=lambda path: -works[path]):
        owners[path] = loads.index(min(loads))
        loads[owners[path]] += works[path]
    return owners


class PathWork:
    """How long a training pass of a path takes, in elements written: what shares of a step follow.

    The outputs of convolutions, a 200th of the multiply-adds, and for each operation but `none` the feature
    map that it adds to. Over NAS-Bench-201's paths (N = 1, batch 64, one CPU core) that explains 0.76 of the
    seconds' variance at C = 16 and 0.59 at C = 4; the outputs alone 0.62 and 0.41.
    """

    def __init__(self, space: ChoiceSpace) -> None:
        self._base = _written(space.base_cost)
        self._table = [
            [
                _written(cost) + (0 if option.operation == "none" else _spread(costs))
                for option, cost in zip(options, costs, strict=True)
            ]
            for options, costs in zip(space.options, space.cost_table, strict=True)
        ]

    def __call__(self, genes: Genes) -> int:
        return self._base + sum(table[gene] for table, gene in zip(self._table, genes, strict=True))


def _spread(costs: Sequence[Complexity]) -> int:
    """Of a choice's options: where one of them is free, the others' feature map."""
    outputs = [cost.activations for cost in costs]
    return max(outputs) - min(outputs)


def _written(cost: Complexity) -> int:
    return cost.activations + cost.macs // MACS_AN_ELEMENT


class Group(Protocol):
    """Those who train one supernet together. Who computes which path of a step is said by `shares`."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def gather(self, own: Sequence[Tensor], sizes: Sequence[int], owners: Sequence[int]) -> list[Tensor]:
        """The buffers of all paths in path order, from this member's `own`; of each path, `sizes` says how
        long its buffer is and `owners` which member brings it. Raises when a member is lost."""
        ...


class Alone:
    """A group of one."""

    rank, size = 0, 1

    def gather(self, own: Sequence[Tensor], sizes: Sequence[int], owners: Sequence[int]) -> list[Tensor]:
        return list(own)
