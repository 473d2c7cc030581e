"""Grid search on Ray Tune: the adapter around a trial, and the schedulers that consult the barrier."""

import json
import logging
import math
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Read by Tune when it starts: no result files and no tables of its own, and Ctrl-C is ours to handle.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
from ray import tune
from ray._private.state import state
from ray.exceptions import RayError
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler

from cluster.barrier import Barrier, NoBarrier
from cluster.grid import Grid
from cluster.recipe import AshaStopping, Resources
from cluster.trial import Report, TrainingTrial, TrialConfig
from networks.errors import UserError, nearest

log = logging.getLogger(__name__)

POINTER = "epoch.json"
PICKLE = "_dict_checkpoint.pkl"
ADDRESSES = "auto, or HOST:PORT of a running Ray cluster"
ANSWER_S = 5.0


class TuneTrial(tune.Trainable):
    """Runs a `TrainingTrial` for Tune.

    The trial keeps its own checkpoints in the run's folder. What Tune saves and restores is only the epoch
    whose report it holds, so nothing that Tune stores is ever unpickled.
    """

    def setup(self, config: dict[str, Any]) -> None:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        self.trial = TrainingTrial()
        self.trial.setup(TrialConfig.model_validate_json(config["candidate"]["trial"]))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.trial.reset(TrialConfig.model_validate_json(new_config["candidate"]["trial"]))
        return True

    def step(self) -> dict[str, Any]:
        report = self.trial.step()
        return {"report": report.model_dump_json(), "epoch": report.epoch, **report.metrics}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, POINTER).write_text(json.dumps({"epoch": self.trial.epoch}))

    def restore(self, checkpoint_path: Any) -> None:
        """Replaces Tune's own, which would unpickle a file that it finds in the folder."""
        checkpoint = checkpoint_path.checkpoint
        with checkpoint.as_directory() as folder:
            if Path(folder, PICKLE).exists():
                raise RuntimeError(f"{folder} holds {PICKLE}; weft writes none and reads none")
            epoch = json.loads(Path(folder, POINTER).read_text())["epoch"]
        self.trial.seen(epoch)
        self._iteration = checkpoint_path.metrics.get("training_iteration", 0)
        self._restored = True


class Consulting:
    """What both schedulers share: they read reports, ask the barrier, and notice lost trials.

    Tune tries a trial whose process died again (`FailureConfig`), except one that dies while it is being
    started: that one it gives up at once. `lost` then ends this experiment, and `drive_tune` starts
    another from the checkpoints. A candidate that used up its retries is a failed candidate.
    """

    grid: Grid
    barrier: Barrier | NoBarrier
    lost = False
    refused: UserError | None = None

    def hear(self, tune_controller: Any, result: dict[str, Any]) -> Report | None:
        """The report; None when it is refused, which ends this experiment."""
        report = Report.model_validate_json(result["report"])
        try:
            self.grid.heard(report)
        except UserError as error:  # raised by `drive_tune`: Tune would wrap it
            self.refused = error
            tune_controller.request_stop_experiment()
            return None
        return report

    def look_for_lost(self, tune_controller: Any) -> None:
        retries = self.grid.search.recipe.retries
        for trial in tune_controller.get_trials():
            ask = ask_of(trial)
            if trial.status != Trial.ERROR or self.barrier.verdict(ask) == "stop":
                continue
            if trial.num_failures > retries:
                reason = f"its process died {trial.num_failures} times"
                self.barrier.fail(Report(ask_index=ask, epoch=0, status="failed", reason=reason))
            elif not self.lost:
                self.lost = True
                tune_controller.request_stop_experiment()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its scheduler now and then; ours is rebuilt from the ledger instead


class BarrierScheduler(Consulting, FIFOScheduler):
    """Runs trials in ask order, pauses those that wait for their rung, and stops those that lost."""

    barrier: Barrier

    def __init__(self, grid: Grid, barrier: Barrier) -> None:
        super().__init__()
        self.grid, self.barrier = grid, barrier

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        report = self.hear(tune_controller, result)
        if report is None:
            return self.STOP
        verdict = self.barrier.arrive(report)
        return {"go": self.CONTINUE, "wait": self.PAUSE, "stop": self.STOP}[verdict]

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        self.look_for_lost(tune_controller)
        barrier = self.barrier
        trials = sorted(tune_controller.get_trials(), key=ask_of)
        for trial in trials:
            if trial.status == Trial.PAUSED and barrier.verdict(ask_of(trial)) == "stop":
                tune_controller.stop_trial(trial)
        ready = [trial for trial in trials if trial.status in (Trial.PENDING, Trial.PAUSED)]
        return next((trial for trial in ready if barrier.verdict(ask_of(trial)) == "go"), None)


class AshaScheduler(Consulting, AsyncHyperBandScheduler):
    """Tune's ASHA; what it stops is told to the ledger as it happens."""

    barrier: NoBarrier

    def __init__(self, grid: Grid, barrier: NoBarrier, stopping: AshaStopping) -> None:
        recipe = grid.search.recipe
        super().__init__(
            time_attr="epoch",
            metric=recipe.metric,
            mode="max",
            max_t=recipe.training.epochs,
            grace_period=stopping.grace,
            reduction_factor=stopping.eta,
        )
        self.grid, self.barrier, self._fifo = grid, barrier, FIFOScheduler()

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        report = self.hear(tune_controller, result)
        if report is None:
            return self.STOP
        if report.status == "failed":
            self.barrier.end(report, "failed")
            return self.STOP
        decision: str = super().on_trial_result(tune_controller, trial, result)
        if decision == self.STOP:
            finished = report.epoch == self.grid.search.recipe.training.epochs
            self.barrier.end(report, "ok" if finished else "stopped")
        return decision

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        self.look_for_lost(tune_controller)
        return self._fifo.choose_trial_to_run(tune_controller)


def ask_of(trial: Trial) -> int:
    ask: int = trial.config["candidate"]["ask_index"]
    return ask


def drive_tune(grid: Grid) -> None:
    """Train the candidates as Tune trials on the Ray that this process is connected to."""
    idle = 0
    while not grid.barrier.done and idle <= grid.search.recipe.retries:
        before = len(grid.run.ledger.segments())
        _fit(grid)
        idle = idle + 1 if len(grid.run.ledger.segments()) == before else 0
    if not grid.barrier.done:
        raise RuntimeError(
            f"Tune lost trials {idle} times in a row without any progress; what is committed is kept, and "
            "--resume goes on from it"
        )


def _fit(grid: Grid) -> None:
    recipe, scratch = grid.search.recipe, grid.run.folder / "scratch"
    stopping = recipe.stopping
    scheduler: BarrierScheduler | AshaScheduler
    if isinstance(grid.barrier, Barrier):
        scheduler = BarrierScheduler(grid, grid.barrier)
    else:
        assert isinstance(stopping, AshaStopping)
        scheduler = AshaScheduler(grid, grid.barrier, stopping)
    candidates = [
        {"ask_index": ask, "trial": grid.configs[ask].model_dump_json()}
        for ask in sorted(grid.barrier.unfinished)
    ]
    tuner = tune.Tuner(
        tune.with_resources(TuneTrial, request(recipe.resources)),
        param_space={"candidate": tune.grid_search(candidates)},
        # Concurrency follows from resources alone: with max_concurrent_trials a paused trial keeps its
        # slot, and a rung with more members than slots would wait for ever.
        tune_config=tune.TuneConfig(
            scheduler=scheduler,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"{ask_of(trial):06d}",
        ),
        run_config=tune.RunConfig(
            name=f"tune-{len(grid.run.ledger.segments()):08d}",
            storage_path=str(scratch),
            failure_config=tune.FailureConfig(max_failures=recipe.retries),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if scheduler.refused is not None:
        raise scheduler.refused


def request(resources: Resources) -> dict[str, float]:
    """What one trial asks of Ray."""
    return {"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus else {})}


@contextmanager
def connected(resources: Resources, address: str | None) -> Iterator[None]:
    """Join the Ray at `address` (``auto``: the one of this machine), or start one of our own, and leave it.

    Raises `UserError` when it cannot be reached or could never hold one candidate.
    """
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if ray.is_initialized():
        check_room(resources)
        yield
        return
    if address is not None:
        _check_address(address)
    try:
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            cpus = None if resources.workers is None else math.ceil(resources.workers * resources.cpus)
            ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        if address is None:
            raise
        raise UserError("--address", address, ADDRESSES, " ".join(str(error).split())) from None
    try:
        check_room(resources)
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Refuse what cannot be a cluster's address at once: Ray itself would try for a minute."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or "/" in host:
        fix = "Run weft on a machine of the cluster instead." if address.startswith("ray://") else ""
        raise UserError("--address", address, ADDRESSES, fix or nearest(address, ["auto"]))
    try:
        socket.create_connection((host, int(port)), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise UserError("--address", address, ADDRESSES, f"Nothing answers there: {error}.") from None


def check_room(resources: Resources) -> None:
    """Refuse a candidate that no node has room for, now or after scaling up."""
    asked = request(resources)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(key, 0) >= amount for key, amount in asked.items()) for node in nodes):
        return
    growth = state.get_max_resources_from_cluster_config() or {}
    for key, amount in asked.items():
        most = max([node.get(key, 0) for node in nodes] + [growth.get(key, 0)])
        if amount > most:
            field = {"CPU": "resources.cpus", "GPU": "resources.gpus"}[key]
            raise UserError(field, amount, f"at most {most:g}, all that a node of this cluster can ever have")
