"""What a score is: a function that ranks candidates of a space. Higher is always better."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

from torch import Tensor

from networks.counters import counter_random, counter_seed
from networks.errors import UserError
from networks.network import Network, build_network
from networks.spaces.choices import ChoiceSpace
from networks.spaces.space import Genes
from networks.supernet import Supernet
from trainers.data import Batch, Data

KEPT = 2**29  # numbers: 2 GiB of images


@dataclass
class Bench:
    """What scores may use, at one state of the weights: after a training step a new one is due, for scores
    keep in it what several candidates share (trainers/scores/memory.py).

    `supernet` and `initial` (its parameters before training, by name) are there when a supernet is
    trained. `batch_size` is that of `batch` and of `validation`. `part`: a number, and how many batches of
    the validation split are looked at, drawn for it; None: all of them.
    """

    space: ChoiceSpace
    data: Data
    seed: int
    batch_size: int = 64
    device: str = "cpu"
    supernet: Supernet | None = None
    initial: dict[str, Tensor] = field(default_factory=dict)
    part: tuple[int, int] | None = None

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

    @property
    def validation(self) -> Iterable[Batch]:
        """The validation split, or the part of it, in order; kept in memory where it is small."""
        numbers = self.data.sizes["validation"] * math.prod(self.data.image)
        whole = self.data.batches("validation", self.batch_size) if numbers > KEPT else self._validation
        if self.part is None:
            return whole
        number, wanted = self.part
        batches = range(-(-self.data.sizes["validation"] // self.batch_size))
        drawn = set(counter_random(self.seed, "part", number).sample(batches, min(wanted, len(batches))))
        return (batch for position, batch in enumerate(whole) if position in drawn)

    @cached_property
    def _validation(self) -> list[Batch]:
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

    @property
    def needs_batches(self) -> int:
        """Training batches of different images that it takes."""
        ...

    def supports(self, space: ChoiceSpace) -> bool: ...

    def __call__(self, bench: Bench, genes: Genes) -> float: ...


@runtime_checkable
class Batched(Protocol):
    """A score that takes many candidates at once faster than one after the other."""

    def many(self, bench: Bench, genes: Sequence[Genes]) -> list[float]:
        """What calling the score with each of them gives, bit for bit."""
        ...


def check_batches(score: Score, data: Data, batch_size: int) -> None:
    """Raise `UserError` where the training split has fewer full batches than the score takes."""
    if score.needs_batches and data.steps_per_epoch(batch_size) < score.needs_batches:
        most = data.sizes["train"] // score.needs_batches
        fix = f"{score.name} compares {score.needs_batches} batches of different images."
        raise UserError("batch_size", batch_size, f"at most {most}", fix)
