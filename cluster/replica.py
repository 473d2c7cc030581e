"""A replica: one copy of a supernet with its data, optimiser and step counter. Knows no Ray."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from cluster.messages import About, Scored
from cluster.recipe_spaces import ChoiceSection
from cluster.trial import place, reason_of
from networks.errors import UserError
from networks.spaces.choices import ChoiceSpace, Kept
from networks.spaces.narrowed import NarrowedSpace
from networks.spaces.space import Genes
from searchers.searcher import Part
from trainers.data import DataSettings, Selecting, open_data
from trainers.group import Group
from trainers.numerics import numerics
from trainers.one_shot import OneShotTrainer
from trainers.one_shot_settings import OneShotSettings
from trainers.scores.registry import find_score
from trainers.scores.score import Batched, Bench, Score


class ScoringSettings(BaseModel):
    """What candidates are scored by. `batch_size`: of validation and of what recalibrates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...] = Field(("accuracy",), min_length=1)
    batch_size: int = Field(250, ge=2)


class ReplicaJob(BaseModel):
    """What a process needs to build a replica; paths of data are absolute. Without `supernet` candidates
    are scored by their own untrained networks. `kept`: the options that are left of the space, if some were
    dropped from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    space: ChoiceSection
    data: DataSettings
    supernet: OneShotSettings | None
    scoring: ScoringSettings
    seed: int
    device: str = "cpu"
    kept: Kept | None = None


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
        self.space: ChoiceSpace = job.space.build(data.image, len(data.classes))
        if job.kept is not None:
            self.space = NarrowedSpace(self.space, job.kept)
        self.data = Selecting(data.to(job.device))
        self.scores = _scores(job)
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

    def score(self, candidates: Sequence[Genes], part: Part | None = None) -> list[Scored]:
        """Every score of each candidate, in order. What goes wrong with one score is its own failure.
        `part`: of the validation batches."""
        started = time.monotonic()
        self.bench.part = part
        together = self._together(candidates)
        share = (time.monotonic() - started) / max(1, len(candidates))
        return [
            self._score(genes, {name: values[i] for name, values in together.items()}, share)
            for i, genes in enumerate(candidates)
        ]

    def _together(self, candidates: Sequence[Genes]) -> dict[str, list[float]]:
        """By score, what those give that take many candidates at once. What cannot be done so is left to
        `_score`, which finds out for which candidate it fails."""
        found = {}
        for score in self.scores:
            if isinstance(score, Batched) and len(candidates) > 1:
                with suppress(Exception):
                    found[score.name] = score.many(self.bench, candidates)
        return found

    def _score(self, genes: Genes, known: Mapping[str, float], seconds: float) -> Scored:
        """`known`: what some scores gave already, in so many `seconds`."""
        started = time.monotonic() - seconds
        metrics: dict[str, float] = {}
        reasons: dict[str, list[str]] = {}  # why -> which scores
        for score in self.scores:
            try:
                if score.name in known:
                    metrics[score.name] = known[score.name]
                    continue
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

    def reset(self, job: ReplicaJob) -> None:
        """Go on as a replica of this job, which scores by other scores or in a smaller part of the space:
        what was dropped is gone from memory. Raises ValueError for a job that differs in more."""
        if job.model_copy(update={"kept": self.job.kept, "scoring": self.job.scoring}) != self.job:
            raise ValueError("a replica can change what it scores by, and its space, but nothing else")
        if job.kept != self.job.kept:
            assert job.kept is not None, "a space does not grow"
            whole = self.space.whole if isinstance(self.space, NarrowedSpace) else self.space
            self.space = NarrowedSpace(whole, job.kept)
            if self.trainer is not None:
                self.trainer.narrow(self.space)
        self.job, self.scores, self._bench = job, _scores(job), None

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


def _scores(job: ReplicaJob) -> list[Score]:
    return [find_score(name, "score.names") for name in job.scoring.names]
