"""The trivial baselines: a candidate's size and work. A score that does not beat them has learned nothing.

Larger is better. They are known of dead candidates too, and so these are not `WORST`. Spaces have few
distinct costs (NAS-Bench-201: 28), so ranking by one has many ties: use tau-b.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from networks.spaces.choices import ChoiceSpace
from networks.spaces.space import Genes
from trainers.scores.score import Bench


@dataclass(frozen=True)
class Cost:
    """params: learned scalars; macs: multiply-adds for one image (networks/complexity.py)."""

    name: Literal["params", "macs"]
    needs_supernet: ClassVar[bool] = False
    needs_batches: ClassVar[int] = 0

    def supports(self, space: ChoiceSpace) -> bool:
        return True

    def __call__(self, bench: Bench, genes: Genes) -> float:
        return float(getattr(bench.space.cost(genes), self.name))
