"""What a driver says of its search while it runs: in the run's folder, and to Prometheus through Ray."""

import json
import time
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.run import Run
from cluster.tracker import outbox_of

FILE = "vitals.json"
EVERY_S = 5.0

# Gauges all of them: a resumed search goes on from where it was.
GAUGES = {
    "asked": ("weft_evaluations", "Candidates that the search's stage has evaluated"),
    "planned": ("weft_evaluations_planned", "Candidates that the stage will evaluate at most"),
    "step": ("weft_training_step", "Step that the supernet's training has reached"),
    "replicas": ("weft_replicas", "Replicas, or trials of a grid, that work now"),
    "machines": ("weft_machines", "Machines that they are on"),
    "deaths": ("weft_replica_deaths", "Replicas and trials whose process died, since this driver began"),
    "best": ("weft_best", "Best value of the first objective so far"),
    "outbox": ("weft_outbox_segments", "Committed segments that MLflow has not taken yet"),
}


class Vitals(BaseModel):
    """`asked` of `planned` candidates of the stage; `step` of `steps` of training; `outbox`: segments that
    MLflow has not taken; `time`: Unix milliseconds."""

    model_config = ConfigDict(frozen=True)

    stage: str
    asked: int = 0
    planned: int = 0
    step: int = 0
    steps: int = 0
    best: float | None = None
    replicas: int = 0
    machines: int = 0
    deaths: int = 0
    outbox: int = 0
    time: int = 0


def vitals_of(run: Run) -> Vitals | None:
    """What its driver said last; None before it said anything."""
    try:
        return Vitals.model_validate_json((run.folder / FILE).read_text())
    except (FileNotFoundError, ValidationError):  # or of another version of weft
        return None


class Monitor:
    """Hears how the search stands, and says so every five seconds and whenever its stage changes.
    `show`: where numbers go besides the run's folder."""

    def __init__(self, run: Run, show: Callable[[Vitals], None] | None = None) -> None:
        self._run, self._show = run, show
        self._said, self._stage = 0.0, ""

    def heard(self, vitals: Vitals) -> None:
        now = time.monotonic()
        if vitals.stage == self._stage and now - self._said < EVERY_S:
            return
        self._said, self._stage = now, vitals.stage
        stamp = time.time_ns() // 1_000_000
        found = vitals.model_copy(update={"time": stamp, "outbox": outbox_of(self._run)})
        self._run.write_text(FILE, json.dumps(found.model_dump()))
        if self._show is not None:
            self._show(found)


class RayMetrics:
    """Gauges of this process on the Ray that it is connected to, one for each number, tagged with the run.
    Every node of a cluster exports them for Prometheus."""

    def __init__(self, run: Run) -> None:
        from ray.util.metrics import Gauge

        tags = {"run": run.name}
        self._gauges: dict[str, Any] = {}
        for field, (name, text) in GAUGES.items():
            self._gauges[field] = Gauge(name, text, tag_keys=("run",))
            self._gauges[field].set_default_tags(tags)

    def __call__(self, vitals: Vitals) -> None:
        for field, gauge in self._gauges.items():
            value = getattr(vitals, field)
            if value is not None:
                gauge.set(value)
