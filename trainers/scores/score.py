"""What a score is: a function that ranks candidates of a space. Higher is always better."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from torch import Tensor

from networks.counters import counter_seed
from networks.network import Network, build_network
from networks.spaces.choices import ChoiceSpace
from networks.spaces.space import Genes
from networks.supernet import Supernet
from trainers.data import Batch, Data

# What a candidate gets that cannot be scored: a dead one, a singular kernel, no finite number. Finite, so
# that it goes through JSON, databases and sorting as any number does.
WORST = -1e30


@dataclass
class Bench:
    """What scores may use, at one state of the weights: after a training step a new one is due, for scores
    keep in it what several candidates share (trainers/scores/memory.py).

    `supernet` and `initial` (its parameters before training, by name) are there when a supernet is
    trained. `batch_size` is that of `batch` and of `validation`.
    """

    space: ChoiceSpace
    data: Data
    seed: int
    batch_size: int = 64
    device: str = "cpu"
    supernet: Supernet | None = None
    initial: dict[str, Tensor] = field(default_factory=dict)

    def network(self, genes: Genes) -> Network:
        """The candidate's own network: fresh weights from the seed, in training mode but without dropout,
        each operation called as a module, so that hooks see every ReLU. The same at every call."""
        network = build_network(self.space.decode(genes), counter_seed(self.seed, "scored"))
        network.head.dropout = 0.0
        network.set_executor("modules")
        return network.to(self.device).train()

    def batch(self, number: int) -> Batch:
        """The batch of this number, from the training split, augmented; the same at every call."""
        return self.data.train_batch(counter_seed(self.seed, "scores"), number, self.batch_size)

    @cached_property
    def validation(self) -> list[Batch]:
        """The whole validation split, in order."""
        return list(self.data.batches("validation", self.batch_size))


class Score(Protocol):
    """`score(bench, genes)` is a finite float, the same for the same arguments, and leaves the bench as it
    was: parameters and buffers bit for bit. A dead candidate gets `WORST`, or the smallest value that the
    score has where one is defined (an angle of 0). Held to
    `trainers.scores.testing.check_score`."""

    @property
    def name(self) -> str:
        """The metric's name."""
        ...

    @property
    def needs_supernet(self) -> bool: ...

    def supports(self, space: ChoiceSpace) -> bool: ...

    def __call__(self, bench: Bench, genes: Genes) -> float: ...
