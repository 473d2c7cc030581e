"""A replica: one copy of a supernet with its data, optimiser and step counter. Knows no Ray."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from cluster.recipe_spaces import ChoiceSection
from cluster.trial import place, reason_of
from networks.errors import UserError
from networks.spaces.space import Genes
from trainers.data import DataSettings, open_data
from trainers.numerics import numerics
from trainers.one_shot import Group, OneShotSettings, OneShotTrainer
from trainers.scores.registry import find_score
from trainers.scores.score import Bench


class ScoringSettings(BaseModel):
    """What candidates are scored by. `batch_size`: of validation and of what recalibrates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...] = Field(("accuracy",), min_length=1)
    batch_size: int = Field(250, ge=2)


class ReplicaJob(BaseModel):
    """What a process needs to build a replica; paths of data are absolute. Without `supernet` candidates
    are scored by their own untrained networks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    space: ChoiceSection
    data: DataSettings
    supernet: OneShotSettings | None
    scoring: ScoringSettings
    seed: int
    device: str = "cpu"


class Scored(NamedTuple):
    """How one candidate did. A `reason` says what went wrong; `metrics` hold the scores that went well, so
    that who reads it decides what it lacks. Seconds and place decide nothing."""

    metrics: dict[str, float]
    reason: str
    seconds: float
    place: str


class About(NamedTuple):
    """What a replica computes with, and on which images."""

    numerics: str
    data: str
    place: str


class Replica:
    """Trains and scores as it is told; everything it does is a function of the job and of its step.

    On a CPU it sets one torch thread itself: the number of threads decides the last bits.
    """

    def __init__(self, job: ReplicaJob) -> None:
        if job.device == "cpu":
            torch.set_num_threads(1)
        elif not torch.cuda.is_available():
            raise UserError("resources.gpus", "above 0", "0 where a replica's torch sees no GPU")
        self.job = job
        data = open_data(job.data)
        self.space = job.space.build(data.image, len(data.classes))
        self.data = data.to(job.device)
        self.scores = [find_score(name, "score.names") for name in job.scoring.names]
        self.trainer: OneShotTrainer | None = None
        if job.supernet is not None:
            self.trainer = OneShotTrainer(self.space, data, job.supernet, job.seed, job.device)
        self._bench: tuple[int, Bench] | None = None

    @property
    def about(self) -> About:
        layout = self.job.supernet is None or self.job.supernet.channels_last
        return About(numerics(self.job.device, layout), self.data.digest, place())

    @property
    def step(self) -> int:
        return 0 if self.trainer is None else self.trainer.step

    def train(self, steps: int, group: Group | None = None) -> dict[str, float]:
        """As `OneShotTrainer.train`."""
        assert self.trainer is not None, "there is nothing to train without a supernet"
        return self.trainer.train(steps, group)

    def score(self, candidates: Sequence[Genes]) -> list[Scored]:
        """Every score of each candidate, in order. What goes wrong with one score is its own failure."""
        return [self._score(genes) for genes in candidates]

    def _score(self, genes: Genes) -> Scored:
        started = time.monotonic()
        metrics: dict[str, float] = {}
        reasons: dict[str, list[str]] = {}  # why -> which scores
        for score in self.scores:
            try:
                self.space.check(genes)
                metrics[score.name] = float(score(self.bench, genes))
            except Exception as error:  # the candidate's own failure, as in training
                reasons.setdefault(reason_of(error), []).append(score.name)
        whole = not metrics and len(reasons) == 1  # it is the candidate, not one of the scores
        texts = [why if whole else f"{', '.join(names)}: {why}" for why, names in reasons.items()]
        return Scored(metrics, "; ".join(texts), time.monotonic() - started, place())

    @property
    def bench(self) -> Bench:
        """What scores work with; a new one after every step, for what it keeps is of the weights."""
        if self._bench is None or self._bench[0] != self.step:
            job, trainer = self.job, self.trainer
            self._bench = (
                self.step,
                Bench(
                    self.space, self.data, job.seed, job.scoring.batch_size, job.device,
                    supernet=None if trainer is None else trainer.supernet,
                    initial={} if trainer is None else trainer.initial,
                ),
            )  # fmt: skip
        return self._bench[1]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights, momentum and step; nothing where nothing is trained."""
        return ({}, {"step": 0}) if self.trainer is None else self.trainer.state()

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        if self.trainer is not None:
            self.trainer.load_state(tensors, values)
            self._bench = None

    def digest(self) -> str:
        """Of all parameters and floating-point buffers."""
        return "" if self.trainer is None else self.trainer.digest()
