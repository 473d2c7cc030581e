"""A trial that trains one candidate: one step = one epoch. Knows no Ray; drivers call it."""

import logging
import os
import platform
import time
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict

from cluster.checkpoints import CheckpointStore
from cluster.files import AnyPath
from cluster.recipe import Recipe
from cluster.recipe_base import PathField, Resources
from networks.architecture import canonical_json
from networks.counters import counter_seed
from networks.errors import CannotGoOn, UserError
from networks.network import build_network
from searchers.searcher import Candidate
from trainers.data import Data, open_data
from trainers.numerics import numerics
from trainers.training import Trainer

log = logging.getLogger(__name__)

LESS_MEMORY = "try a smaller training.batch_size, space.channels or space.nodes"


class TrialConfig(BaseModel):
    """What a process needs to train one candidate. `folder` is the run's, absolute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    folder: PathField
    candidate: Candidate

    @property
    def checkpoints(self) -> CheckpointStore:
        return CheckpointStore(candidate_folder(self.folder, self.candidate))


def candidate_folder(run: AnyPath, candidate: Candidate) -> AnyPath:
    return run / "candidates" / f"{candidate.ask_index:06d}-{candidate.id}"


def candidate_seed(recipe: Recipe, names: dict[str, Any]) -> int:
    """What a candidate's weights and batches are drawn from: of the recipe's seed and of what the candidate
    is, so that it trains alike in every grid that holds it."""
    return counter_seed(recipe.seed, "candidate", canonical_json(names))


class Report(BaseModel):
    """What a trial says after a step. `curve` holds the metrics of every epoch so far; `failed` is final.
    `numerics` says what computed it (trainers/numerics.py) and `data` is the digest of the images; both
    are empty when nothing was computed."""

    model_config = ConfigDict(frozen=True)

    ask_index: int
    epoch: int
    status: Literal["running", "failed"] = "running"
    reason: str = ""
    curve: tuple[dict[str, float], ...] = ()
    seconds: float = 0.0
    place: str = ""
    time: int = 0
    numerics: str = ""
    data: str = ""

    @property
    def metrics(self) -> dict[str, float]:
        """Of the last epoch."""
        return {key: value for key, value in self.curve[-1].items() if key != "epoch"} if self.curve else {}


class TrainingTrial:
    """Trains a candidate epoch by epoch and leaves a checkpoint after each.

    `setup` goes on from the candidate's newest checkpoint when there is one; the next `step` then reports
    that checkpoint's epoch again instead of training, because the report may have been lost with the
    process that made it. What goes wrong inside a candidate (no numbers, no memory, an unusable recipe
    value) is a report with status ``failed``. What goes wrong around it (storage that cannot be written)
    is an exception, which ends the search and leaves the candidate to a resume.
    """

    def __init__(self) -> None:
        self._data: tuple[object, Data] | None = None
        self._trainer: Trainer | None = None

    def setup(self, config: TrialConfig) -> None:
        """Make the candidate's network and data ready; every trace of an earlier candidate is gone."""
        self.config = config
        self._curve: list[dict[str, float]] = []
        self._snapshots: dict[str, list[list[float]]] = {}
        self._seconds = 0.0
        self._repeat = False
        self._broken: Exception | None = None
        self._numerics = ""
        self._trainer = None  # its memory is free before the next is built
        try:
            self._trainer = self._build(config)
            self._load()
        except Exception as error:  # told by the first step: a process that fails to start is tried again
            self._break(error)

    reset = setup

    @property
    def trainer(self) -> Trainer:
        """The candidate's. Raises what went wrong when there is none."""
        if self._broken is not None:
            raise self._broken
        assert self._trainer is not None
        return self._trainer

    def _break(self, error: Exception) -> None:
        """Give the candidate up. A traceback is logged for what nobody expects."""
        errors = ArithmeticError | MemoryError | torch.OutOfMemoryError | UserError | CannotGoOn
        expected = isinstance(error, errors)
        log.warning(
            "candidate %d cannot go on: %s" if around(error) else "candidate %d failed: %s",
            self.config.candidate.ask_index,
            reason_of(error),
            exc_info=None if expected else error,
        )
        self._broken = error.with_traceback(None)  # whose frames hold tensors
        self._trainer = None

    def _build(self, config: TrialConfig) -> Trainer:
        recipe = config.recipe
        device = trial_device(recipe.resources)
        if device == "cpu":
            torch.set_num_threads(1)
        if self._data is None or self._data[0] != recipe.data:
            self._data = (recipe.data, open_data(recipe.data))
        data = self._data[1]
        self._numerics = numerics(device, recipe.training.channels_last)
        space, genes = recipe.space.build(data.image, len(data.classes)), config.candidate.genes
        seed = candidate_seed(recipe, space.names(genes))
        architecture = space.decode(genes)
        training = recipe.training_of(genes)
        return Trainer(build_network(architecture, seed), data, training, seed, device)

    def step(self) -> Report:
        """Train one epoch, score it, save it. A finished candidate is reported again, unchanged."""
        if around(self._broken):
            assert self._broken is not None
            raise self._broken
        if self._broken is not None:
            return self._failed(self._broken)
        if self._repeat or self.epoch >= self._epochs:
            self._repeat = False
            return self._report()
        started = time.monotonic()
        try:
            metrics = self.trainer.train_epoch()
            metrics |= self.trainer.evaluate("validation")
            if self.trainer.epoch == self._epochs and self.trainer.data.sizes["test"]:
                metrics |= self.trainer.evaluate("test")
        except Exception as error:  # the candidate's own failure; see the class docstring
            self._break(error)
            return self._failed(error)
        self._curve.append({"epoch": self.trainer.epoch, **metrics})
        self._keep_topology()
        self._seconds += time.monotonic() - started
        self.save()
        return self._report()

    def _keep_topology(self) -> None:
        """The weights of the edges after this epoch, where the recipe wants them (cluster/snapshots.py)."""
        wanted, edges = self.config.recipe.snapshots, self.trainer.edges
        if wanted is not None and edges is not None and self.trainer.epoch in wanted.epochs(self._epochs):
            values = [stage.edge_values.tolist() for stage in self.trainer.network.graph_stages]
            self._snapshots[str(self.trainer.epoch)] = values

    @property
    def _epochs(self) -> int:
        return self.config.recipe.training.epochs

    @property
    def epoch(self) -> int:
        """Epochs trained and reported or reportable."""
        return int(self._curve[-1]["epoch"]) if self._curve else 0

    def save(self) -> None:
        tensors, values = self.trainer.state()
        about = {"trainer": values, "curve": self._curve, "seconds": self._seconds}
        if self._snapshots:
            about["snapshots"] = self._snapshots
        try:
            self.config.checkpoints.save(self.epoch, tensors, about)
        except OSError as error:
            place = str(self.config.folder)
            raise UserError("storage", place, "a folder with room that can be written", str(error)) from None

    def _load(self) -> None:
        checkpoint = self.config.checkpoints.newest()
        if checkpoint is None:
            return
        self.trainer.load_state(checkpoint.tensors, checkpoint.values["trainer"])
        self._curve = checkpoint.values["curve"]
        self._snapshots = checkpoint.values.get("snapshots", {})
        self._seconds = checkpoint.values["seconds"]
        self._repeat = True

    def _report(self, **changes: Any) -> Report:
        report = Report(
            ask_index=self.config.candidate.ask_index,
            epoch=self.epoch,
            curve=tuple(self._curve),
            seconds=self._seconds,
            place=place(),
            time=time.time_ns() // 1_000_000,
            numerics=self._numerics,
            data=self._data[1].digest if self._data else "",
        )
        return report.model_copy(update=changes)

    def _failed(self, error: Exception) -> Report:
        return self._report(status="failed", reason=reason_of(error))


def around(error: Exception | None) -> bool:
    """Whether it is a fault around a candidate, not in it: a storage that fails."""
    return isinstance(error, CannotGoOn) or (isinstance(error, UserError) and error.field == "storage")


def place() -> str:
    """Machine and process."""
    return f"{platform.node()}:{os.getpid()}"


def trial_device(resources: Resources) -> str:
    """``cuda`` when each candidate or replica is given a GPU, else ``cpu``."""
    if not resources.gpus:
        return "cpu"
    if not torch.cuda.is_available():
        raise UserError("resources.gpus", resources.gpus, "0 on a machine whose torch sees no GPU")
    return "cuda"


def reason_of(error: Exception) -> str:
    """Why a candidate failed, in one line, with a proposal where memory ran out."""
    text = " ".join(str(error).split()) or type(error).__name__
    memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text
    if memory:
        return (
            f"out of memory ({text[:200]}); try a smaller training.batch_size, space.channels or space.nodes"
        )
    return text if isinstance(error, ArithmeticError | UserError) else f"{type(error).__name__}: {text}"
