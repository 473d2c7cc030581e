"""How well a path of the trained supernet does on the validation split (SPOS, 1904.00420)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch.nn import functional as F

from networks.errors import UserError
from networks.liveness import WORST, is_dead
from networks.spaces.choices import ChoiceSpace
from networks.spaces.space import Genes
from networks.supernet import Supernet
from trainers.data import Batch
from trainers.recalibration import Forward, evaluating, recalibrated
from trainers.scores.memory import remembered
from trainers.scores.score import Bench

RECALIBRATION_BATCHES = 4


class Validated(NamedTuple):
    """accuracy: 0 to 1. loss: mean cross entropy."""

    accuracy: float
    loss: float


@dataclass(frozen=True)
class Validation:
    """accuracy; loss, with its sign changed; both on recalibrated batch normalisations; or accuracy on the
    running statistics as training left them, to compare (published tau 0.04 against 0.54, spec section 2).

    `batches`: of training images, each of the bench's size, that the statistics are computed from (SPOS: 200
    of 128). accuracy and loss of a candidate asked for one after the other cost one pass. A dead candidate,
    and one whose loss is no finite number, gets `WORST`.
    """

    name: Literal["accuracy", "loss", "accuracy_unrecalibrated"]
    batches: int = RECALIBRATION_BATCHES

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise UserError("batches", self.batches, "1 or more")

    @property
    def needs_supernet(self) -> bool:
        return True

    @property
    def needs_batches(self) -> int:
        return 0 if self.name == "accuracy_unrecalibrated" else 1  # they may repeat

    def supports(self, space: ChoiceSpace) -> bool:
        return True

    def __call__(self, bench: Bench, genes: Genes) -> float:
        supernet = supernet_of(bench, self.name)
        if is_dead(bench.space.decode(genes)):
            return WORST
        found = self._validated(bench, supernet, genes)
        if not math.isfinite(found.loss):
            return WORST
        return -found.loss if self.name == "loss" else found.accuracy

    def _validated(self, bench: Bench, supernet: Supernet, genes: Genes) -> Validated:
        if self.name == "accuracy_unrecalibrated":
            with evaluating(supernet, genes) as forward:
                return validate(forward, bench.validation)

        def images() -> list[Batch]:
            return [bench.batch(number) for number in range(self.batches)]

        def measure() -> Validated:
            batches = remembered(bench, "recalibration images", self.batches, images)
            with recalibrated(supernet, (x for x, _ in batches), genes) as forward:
                return validate(forward, bench.validation)

        return remembered(bench, "recalibrated pass", (genes, self.batches, bench.part), measure)


def validate(forward: Forward, batches: Iterable[Batch]) -> Validated:
    """Of images -> logits on labelled images. The loss is not finite where a logit is none."""
    loss, hits, seen = 0.0, 0, 0
    for x, y in batches:
        logits = forward(x).float()
        loss += F.cross_entropy(logits, y, reduction="sum").item()
        hits += int((logits.argmax(1) == y).sum())
        seen += len(y)
    return Validated(hits / seen, loss / seen)


def supernet_of(bench: Bench, score: str) -> Supernet:
    """The bench's supernet; `UserError` where it has none."""
    if bench.supernet is None:
        raise UserError("score", score, "scores of untrained networks, without a supernet")
    return bench.supernet
