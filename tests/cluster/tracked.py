"""A run folder as a search leaves it, and what MLflow says of it."""

import json
import math
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from cluster.ledger import Ledger, Row
from cluster.run import Run
from networks.complexity import Complexity
from searchers.searcher import Candidate
from tests.cluster.rows import commit as append

CREATED = 1_790_000_000_000
SECRET = "hunter2"


def describe_run(run: Path, uri: str, **more: object) -> Path:
    """Make this folder that of a run which is tracked there."""
    recipe = {
        "name": "wiring",
        "space": {"kind": "randwire", "nodes": 8, "generators": [{"generator": "ER", "p": [0.2]}]},
        "data": {"source": f"https://reader:{SECRET}@images.example/set", "api_token": SECRET},
        "tracking": {"uri": uri},
    }
    about = {
        "run": run.name, "experiment": "wiring", "recipe": recipe, "recipe_digest": "d" * 64,
        "space_digest": "5" * 64, "tracking_uri": uri, "created": CREATED,
        "metric": "validation_accuracy", **more,
    }  # fmt: skip
    (run / "run.json").write_text(json.dumps(about))
    return run


def make_row(ask: int, rung: int, status: str, accuracy: float = math.nan, **changes: Any) -> Row:
    """A row of candidate `ask`: rung 0 ends after epoch 1, rung 1 after epoch 3."""
    first, last = ((1, 1), (2, 3))[rung]
    setting = {"generator": "WS", "setting": "WS(4, 0.75)", "seed": ask, "k": 4, "p": 0.75}
    curve = [
        {"epoch": epoch, "train_loss": 2.0 / epoch, "validation_accuracy": accuracy - 0.1 * (last - epoch)}
        for epoch in range(first, last + 1)
    ]
    values: dict[str, Any] = {
        "candidate": Candidate.of("search", "space", (0, 1, ask), ask),
        "names": setting, "architecture": f"{ask:064x}", "cost": Complexity(1000 + ask, 20_000, 300),
        "rung": rung, "epoch": last, "status": status, "seconds": 2.0 * last, "place": "node-1",
        "time": CREATED + 10_000 * rung + 100 * ask + 60_000, "curve": tuple(curve),
        "metrics": {"validation_accuracy": accuracy, "validation_loss": 1 - accuracy},
    }  # fmt: skip
    return Row(**{**values, **changes})


def failed_row(ask: int, rung: int) -> Row:
    return make_row(ask, rung, "failed", reason="the loss is NaN", metrics={}, curve=())


SEGMENTS = [
    [make_row(0, 0, "promoted", 0.5), make_row(1, 0, "stopped", 0.3), failed_row(2, 0)],
    [make_row(3, 0, "promoted", 0.6), make_row(4, 0, "promoted", 0.4)],
    [make_row(0, 1, "ok", 0.7), failed_row(3, 1)],
]
# Candidate 4 stays at its first rung: the search goes on.


def commit(run: Path, segments: list[list[Row]] = SEGMENTS) -> None:
    for rows in segments:
        append(Ledger(run / "ledger"), rows)


def finish(run: Path, status: str = "FINISHED") -> None:
    (run / "report.md").write_text(
        "# First place: WS(4, 0.75) seed 0\n\n![best](pictures/best.png)\n" + 900 * "| a row |\n"
    )
    (run / "report.json").write_text("{}")
    (run / "pictures").mkdir(exist_ok=True)
    for name in ("best.png", "best.svg", "notes.txt"):
        (run / "pictures" / name).write_text("a picture")
    (run / "finished.json").write_text(json.dumps({"status": status, "time": CREATED + 200_000}))


def client_of(run: Path) -> MlflowClient:
    return MlflowClient(Run(run).tracking_uri)


def read_back(run: Path, experiment: str = "wiring") -> dict[str, dict[str, Any]]:
    """Everything MLflow says, without its own ids: the parent under ``parent``, children by candidate id."""
    client = client_of(run)
    history = client.get_metric_history
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id], max_results=5000)
    keys = [one.data.tags.get("weft.candidate_id", "parent") for one in runs]
    assert len(set(keys)) == len(keys), "a run is there twice"
    parents = {one.info.run_id for one, key in zip(runs, keys, strict=True) if key == "parent"}
    assert {one.data.tags.get("mlflow.parentRunId") for one in runs} <= {None, *parents}
    return {
        key: {
            "name": one.info.run_name, "status": one.info.status, "params": one.data.params,
            "start": one.info.start_time, "end": one.info.end_time,
            "tags": {tag: text for tag, text in one.data.tags.items() if tag != "mlflow.parentRunId"},
            "metrics": {
                name: sorted((m.step, m.timestamp, str(m.value)) for m in history(one.info.run_id, name))
                for name in one.data.metrics
            },
        }
        for one, key in zip(runs, keys, strict=True)
    }  # fmt: skip


def artifacts(run: Path, folder: str = "") -> set[str]:
    client = client_of(run)
    return {file.path for file in client.list_artifacts(parent_id(run), folder or None)}


def parent_id(run: Path) -> str:
    client = client_of(run)
    experiment = client.get_experiment_by_name("wiring")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "tags.`weft.run` LIKE '%'")
    assert len(found) == 1
    return found[0].info.run_id


def ident(ask: int) -> str:
    return make_row(ask, 0, "ok", 0.5).candidate.id
