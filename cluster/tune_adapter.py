"""What both adapters for Ray Tune share: a trial that Tune keeps nothing of, faults as text, and the call of
Tune itself, which Ctrl-C ends between two of its steps."""

import json
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol

# Read by Tune when it starts: no result files and no tables of its own, and Ctrl-C is ours to handle.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# A failed candidate has no metrics to report, which Tune would take for a mistake under ASHA.
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")

from ray import tune
from ray.tune.experiment import Trial

from cluster.files import AnyPath, remove_folder, work_folder
from networks.errors import CannotGoOn, UserError

log = logging.getLogger(__name__)
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what goes wrong is told in our own words

CAUSE = 300  # characters


class NothingSaved(NamedTuple):
    """What Tune takes for a trial without a checkpoint."""

    checkpoint: None = None
    metrics: None = None


class Unsaved(tune.Trainable):
    """A trial that keeps its own checkpoints in the run's folder, and goes on from them by itself.

    Tune's would be a second store: it needs one that every node reaches, writes to S3 without our patience
    (an outage of seconds used up a candidate's retries), and is read with pickle.
    """

    def save(self, checkpoint_dir: str | None = None) -> Any:
        return NothingSaved()

    def restore(self, checkpoint_path: Any) -> None:
        raise RuntimeError(f"{checkpoint_path}: weft goes on from its own checkpoints, never from Tune's")


def fault_text(error: Exception) -> str:
    """An exception as JSON, for Tune's results hold plain values."""
    if isinstance(error, UserError):
        return json.dumps([error.field, str(error.value), error.allowed, error.fix])
    text = " ".join(str(error).split())
    if isinstance(error, CannotGoOn):
        return json.dumps(text)
    return json.dumps(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def fault_of(text: str) -> UserError | CannotGoOn:
    parts = json.loads(text)
    return CannotGoOn(parts) if isinstance(parts, str) else UserError(*parts)


def cause_of(trial: Trial) -> str:
    """What Tune noted when the trial failed the last time, in a line."""
    path = Path(trial.error_file) if trial.error_file else None
    if path is None or not path.exists():
        return "Ray says no more"
    last = path.read_text().rpartition("Failure #")[2].splitlines()[1:]
    lines = [line.strip() for line in last if line.strip()] or ["Ray says no more"]
    # Of an exception the last line says what it was; of a process that died the first sentences.
    return (lines[-1] if "Traceback" in last[0] or "::" in last[0] else " ".join(lines))[:CAUSE]


class Controlled(Protocol):
    """A scheduler that knows what ended the experiment."""

    fault: Exception | None


class Asked(tune.Stopper):
    """Ends the experiment when it was asked to. Tune looks after each of its steps, many times a second."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.asked


@contextmanager
def heard_between_steps(stopper: Asked) -> Iterator[None]:
    """Meanwhile Ctrl-C and SIGTERM ask the stopper, instead of raising KeyboardInterrupt wherever Tune is.

    Raised in the middle of a change of Tune's books, of which actor is whose, it left them such that ending
    the trials failed in turn. A second Ctrl-C does interrupt at once; SIGTERM is heard once, as everywhere
    (`cluster.experiment.interruptible`).
    """

    def ask(number: int, frame: FrameType | None) -> None:
        stopper.asked = True
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before[signal.SIGINT])
        signal.signal(signal.SIGTERM, signal.SIG_IGN if stopper.asked else before[signal.SIGTERM])


def fit(
    trainable: Any, scheduler: Controlled, run: AnyPath, *, name: str, space: Any, retries: int, **how: Any
) -> None:
    """Run an experiment over the grid `space`; `how`: more of `tune.TuneConfig`. Tune's own files go to this
    machine's folder of the run, and are deleted.

    Raises KeyboardInterrupt after Ctrl-C or SIGTERM, when Tune has ended the processes of its trials: they
    would go on with their work, and hold what they asked of Ray, while the driver writes its report.
    """
    stopper = Asked()
    scratch = work_folder(run) / "scratch"
    tuner = tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(scheduler=scheduler, **how),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(scratch),
            failure_config=tune.FailureConfig(max_failures=retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            stop=stopper,
            verbose=0,
        ),
    )
    try:
        with heard_between_steps(stopper):
            tuner.fit()
    except Exception:  # a full disk, for one, fails Tune's own files too, of which it says less
        if stopper.asked:
            log.warning("Ray Tune failed while it was ended", exc_info=True)
        elif scheduler.fault is None:
            raise
    finally:
        remove_folder(scratch)
    if stopper.asked:
        raise KeyboardInterrupt
