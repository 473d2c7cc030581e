"""A search as MLflow shows it: a parent run for the search, a child run for each candidate.

Every write is an upsert that depends on the ledger alone, times included: MLflow keeps one entry of a
metric for each (step, time, value), so a repeated write changes nothing.
"""

import csv
import io
import json
import logging
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient, entities
from mlflow.entities import Metric, Param, RunTag

from cluster.files import AnyPath
from cluster.ledger import Row
from cluster.ledger_parquet import write_parquet
from cluster.run import Run
from cluster.search_report import frontier_of
from cluster.secrets import without_secrets
from cluster.shrinking import Rung
from cluster.snapshots import adjacency_lists, given_architectures
from cluster.standing import Best
from cluster.tracker import sqlite_file
from networks.architecture import canonical_json
from searchers.problem import Objective

log = logging.getLogger(__name__)

# What MLflow takes in one log_batch is 1,000 entries, of which 100 params and 100 tags.
METRICS_A_CALL, PARAMS_A_CALL, PAGE = 800, 100, 1000
TEXT_LENGTH, NOTE_LENGTH, PARENT_PARAMS = 500, 8000, 300
WRITTEN_LAST = "macs"  # a child that has this metric has its params and costs


@dataclass(slots=True)
class Child:
    """A child run in MLflow. described: its params are there. closed: its final row is."""

    run_id: str
    described: bool
    closed: bool


class SearchView:
    """The runs of one search. Building it reads what MLflow has, and makes the parent where it is missing.

    Errors of MLflow come through as they are; after one, a new view must be built, because a call that
    failed may have done its work.
    """

    def __init__(self, client: MlflowClient, search: Run) -> None:
        self.client, self.run = client, search
        self.about, self._uri = search.about, search.tracking_uri
        self._experiment = self._find_experiment()
        parent = self._find_parent()
        self.parent: str = parent.info.run_id
        self._status: str = parent.info.status
        # Of a grid of given networks: what each one's edges weigh is an artifact of its candidates.
        self._networks = given_architectures(self.about["recipe"])
        self._describe_parent(parent)
        self.children = {} if self.frontier_only else self._read_children()

    @property
    def frontier_only(self) -> bool:
        return bool(self.about.get("runs") == "frontier")

    def reopen(self) -> None:
        """Show the search as running again: it was resumed."""
        if self._status != "RUNNING":
            self.client.update_run(self.parent, status="RUNNING")
            self._status = "RUNNING"

    def write_row(self, row: Row) -> None:
        """Add what this row says to its candidate's run, which is made for the first one."""
        child = self.children.get(row.candidate.id)
        if child and child.closed:
            return
        state = {"status": row.status, "place": row.place, **({"reason": row.reason} if row.reason else {})}
        tags = [RunTag(key, value[:NOTE_LENGTH]) for key, value in state.items()]
        if child is None:
            child = self._create_child(row, state)
            tags = []  # create_run wrote them
        metrics, params = list(_metrics(row)), []
        if not child.described:
            params = [Param(_key(name), _text(value)) for name, value in _params(row).items()]
            metrics += [Metric(name, cost, row.time, 0) for name, cost in _costs(row).items()]
            if self._networks:
                matrices = adjacency_lists(self._networks[row.candidate.genes[0]])
                self.client.log_text(child.run_id, canonical_json(matrices), "adjacency.json")
        self._log(child.run_id, metrics, params, tags)
        child.described = True
        if row.final:
            status = "FAILED" if row.status == "failed" else "FINISHED"
            self.client.set_terminated(child.run_id, status, end_time=row.time)
            child.closed = True

    def write_best(self, points: Sequence[Best]) -> None:
        """The best so far, on the parent, over evaluations."""
        name = f"best_{self.about['metric']}"
        self._log(self.parent, [Metric(name, point.value, point.time, point.step) for point in points])

    def write_leaders(self, leaders: Sequence[Row]) -> None:
        """The table ``leaders.csv`` of the parent: sorting thousands of children would take seconds."""
        table = io.StringIO()
        metric = self.about["metric"]
        names = list(dict.fromkeys(name for row in leaders for name in row.names))
        header = ["rank", "candidate", metric, "epoch", "status", "params", "macs", "seconds", "id", "run"]
        sheet = csv.writer(table, lineterminator="\n")
        sheet.writerow([*header, *names])
        for rank, row in enumerate(leaders, 1):
            child = self.children.get(row.candidate.id)
            cells = [rank, row.label, row.metrics[metric], row.epoch, row.status, row.cost.params]
            cells += [row.cost.macs, row.seconds, row.candidate.id, child.run_id if child else ""]
            sheet.writerow([*cells, *(row.names.get(name, "") for name in names)])
        self.client.log_text(self.parent, table.getvalue(), "leaders.csv")

    def write_rungs(self, rungs: Sequence[Rung]) -> None:
        """Of a search that shrinks: the size of the space after each rung, on the parent, and the table
        ``shrinking.csv`` of all operators' scores so far."""
        metrics = []
        for number, rung in enumerate(rungs):
            left = sum(map(len, rung.kept))
            for name, value in (("space_log10", math.log10(rung.size)), ("operators_left", left)):
                metrics.append(Metric(name, value, rung.time, number))
        self._log(self.parent, metrics)
        table = io.StringIO()
        sheet = csv.writer(table, lineterminator="\n")
        voters = max(len(one.scores) for rung in rungs for one in rung.operators)
        scores = [f"score_{number}" for number in range(1, voters + 1)]
        sheet.writerow(["rung", "step", "candidates_left", "operator", *scores, "dropped"])
        for number, rung in enumerate(rungs):
            for one in rung.operators:
                given = ["" if score is None else score for score in one.scores]
                sheet.writerow([number, rung.step, rung.size, one.name, *given, int(one.dropped)])
        self.client.log_text(self.parent, table.getvalue(), "shrinking.csv")

    def finish(self, leaders: Sequence[Row], status: str, time: int) -> None:
        """Everything that is known at the end: leaders, report, pictures, the ledger; then end the parent."""
        if self.frontier_only:
            self._write_frontier(leaders)
        self.write_leaders(leaders)
        folder = self.run.folder
        for name in ("report.md", "report.json"):
            if (folder / name).is_file():
                self._log_file(folder / name)
        if (folder / "report.json").is_file():
            report = json.loads((folder / "report.json").read_text())
            self._log(self.parent, _retrained(report.get("retrained", ()), time))
        pictures: Iterator[AnyPath] = (folder / "pictures").glob("*.*")
        for file in sorted(pictures, key=lambda file: file.name):
            if file.name.endswith((".png", ".svg")):
                self._log_file(file, "pictures")
        if (folder / "report.md").is_file():
            self.client.set_tag(self.parent, "mlflow.note.content", _note((folder / "report.md").read_text()))
        parquet = self.run.work / "tracking" / "ledger.parquet"
        write_parquet(self.run.ledger, parquet)
        self.client.log_artifact(self.parent, str(parquet))
        self.end(status, time)

    def end(self, status: str, time: int) -> None:
        self.client.set_terminated(self.parent, status, end_time=time)
        self._status = status

    def _log_file(self, file: AnyPath, below: str | None = None) -> None:
        """As an artifact of the parent."""
        if isinstance(file, Path):
            self.client.log_artifact(self.parent, str(file), below)
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, file.name)
            copy.write_bytes(file.read_bytes())
            self.client.log_artifact(self.parent, str(copy), below)

    def _write_frontier(self, leaders: Sequence[Row]) -> None:
        """The leaders, and with several objectives all that nothing dominates."""
        self.children = self._read_children()
        goals = [Objective.model_validate(goal) for goal in self.about["recipe"].get("objectives", ())]
        chosen = {row.candidate.id for row in leaders}
        if goals:
            chosen |= {row.candidate.id for row in frontier_of(list(self.run.ledger.rows()), goals)}
        for row in self.run.ledger.rows():
            if row.candidate.id in chosen:
                self.write_row(row)

    def _find_experiment(self) -> str:
        name = self.about["experiment"]
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        # Without a server MLflow would put artifacts into ./mlruns of whoever writes first.
        place = None if self._uri.startswith("http") else self._artifacts(name)
        return self.client.create_experiment(name, artifact_location=place)

    def _artifacts(self, name: str) -> str:
        """Beside a database that is a file; for one that is elsewhere, beside the runs."""
        file, runs = sqlite_file(self._uri), self.run.folder.parent
        if file is None and not isinstance(runs, Path):
            return str(runs / "mlartifacts" / name)
        folder = file.parent if file is not None else Path(str(runs))
        return (folder.absolute() / "mlartifacts" / name).as_uri()

    def _find_parent(self) -> entities.Run:
        key = f"{self.about['run']}@{self.about['recipe_digest'][:16]}"
        found = self.client.search_runs([self._experiment], f"tags.`weft.run` = '{key}'", max_results=1)
        if found:
            return found[0]
        tags = {
            "weft.run": key, "weft.recipe_digest": self.about["recipe_digest"],
            "weft.space_digest": self.about["space_digest"], "mlflow.source.name": "weft",
        }  # fmt: skip
        return self.client.create_run(self._experiment, self.about["created"], tags, self.about["run"])

    def _describe_parent(self, parent: entities.Run) -> None:
        """The recipe as params (those not there yet: a resumed search may run elsewhere) and as a file."""
        recipe = without_secrets(self.about["recipe"])
        flat = {_key(name): _text(value) for name, value in flatten(recipe)}
        params = [Param(name, value) for name, value in flat.items() if name not in parent.data.params]
        room = PARENT_PARAMS - len(parent.data.params)
        self._log(self.parent, params=params[: max(0, room)])
        if parent.data.tags.get("weft.described") != (digest := self.run.recipe_digest):  # or it was extended
            self.client.log_text(self.parent, yaml.safe_dump(recipe, sort_keys=False), "recipe.yaml")
            self.client.set_tag(self.parent, "weft.described", digest)

    def _create_child(self, row: Row, state: Mapping[str, str]) -> Child:
        tags = {
            "mlflow.parentRunId": self.parent, "weft.candidate_id": row.candidate.id,
            "genes": canonical_json(list(row.candidate.genes))[:NOTE_LENGTH], **state,
        }  # fmt: skip
        if row.parent:
            tags |= {"weft.parent_candidate": row.parent, "weft.edit": row.edit[:NOTE_LENGTH]}
        start = max(0, row.time - round(1000 * row.seconds))
        run = self.client.create_run(self._experiment, start, tags, row.label)
        child = Child(run.info.run_id, described=False, closed=False)
        self.children[row.candidate.id] = child
        return child

    def _read_children(self) -> dict[str, Child]:
        """All children by candidate id. Of two with one id, which a lost answer to create_run can leave,
        the fuller stays."""
        children: dict[str, Child] = {}
        query, page = f"tags.`mlflow.parentRunId` = '{self.parent}'", None
        while True:
            found = self.client.search_runs([self._experiment], query, max_results=PAGE, page_token=page)
            for run in found:
                key = run.data.tags.get("weft.candidate_id")
                if key is None:
                    continue  # a run that somebody else hung under this parent
                closed = run.info.status not in {"RUNNING", "SCHEDULED"}
                child = Child(run.info.run_id, WRITTEN_LAST in run.data.metrics, closed)
                if key in children:
                    both = (children[key], child)
                    spare, child = sorted(both, key=lambda one: (one.closed, one.described))
                    log.warning("two runs for candidate %s; deleting %s", key, spare.run_id)
                    self.client.delete_run(spare.run_id)
                children[key] = child
            page = found.token
            if not page:
                return children

    def _log(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Sequence[Param] = (),
        tags: Sequence[RunTag] = (),
    ) -> None:
        """One call where MLflow's limits allow; metrics go last."""
        while len(params) > PARAMS_A_CALL:
            self.client.log_batch(run_id, params=params[:PARAMS_A_CALL])
            params = params[PARAMS_A_CALL:]
        if metrics or params or tags:
            self.client.log_batch(run_id, metrics=metrics[:METRICS_A_CALL], params=params, tags=tags)
        for start in range(METRICS_A_CALL, len(metrics), METRICS_A_CALL):
            self.client.log_batch(run_id, metrics=metrics[start : start + METRICS_A_CALL])


def _params(row: Row) -> dict[str, Any]:
    return {**row.names, "ask_index": row.candidate.ask_index, "architecture": row.architecture}


def _costs(row: Row) -> dict[str, int]:
    costs = row.cost._asdict()
    return {name: costs[name] for name in sorted(costs, key=lambda name: name == WRITTEN_LAST)}


def _metrics(row: Row) -> Iterator[Metric]:
    """Each epoch's metrics at its step. Their times are spread evenly over the candidate's own work."""
    pace = 1000 * row.seconds / row.epoch if row.epoch else 0.0
    for point in row.curve:
        step = int(point["epoch"])
        time = max(0, row.time - round((row.epoch - step) * pace))
        yield from (Metric(_key(key), value, time, step) for key, value in point.items() if key != "epoch")
    for key, value in {**row.metrics, "seconds": row.seconds}.items():
        yield Metric(_key(key), value, row.time, row.epoch)


def _retrained(found: Sequence[Mapping[str, Any]], time: int) -> list[Metric]:
    """Of the networks that a search ended with: means over their trainings, and what they cost."""
    said = {
        f"retrained {one['label']} {name}": value
        for one in found
        for name, value in (
            *((metric, values["mean"]) for metric, values in one["metrics"].items()),
            ("params", one["params"]),
            ("macs", one["macs"]),
        )
    }
    return [Metric(_key(name), value, time, 0) for name, value in said.items()]


def _key(name: str) -> str:
    """A name that MLflow takes: no odd characters, nothing that reads as a path."""
    return re.sub(r"[^\w.\- ]", "_", name).strip(". ")[:250] or "_"


def _text(value: object) -> str:
    text = value if isinstance(value, str) else canonical_json(value)
    return text if len(text) <= TEXT_LENGTH else text[: TEXT_LENGTH - 1] + "…"


def _note(report: str) -> str:
    """The report as a run's description: whole lines, no pictures (they cannot be linked from there)."""
    lines = [line for line in report.splitlines(keepends=True) if not line.startswith("![")]
    while sum(map(len, lines)) > NOTE_LENGTH:
        lines.pop()
    return "".join(lines)


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``a.b`` and value for every leaf of nested mappings; None is left out, a list is a leaf."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from flatten(inner, f"{prefix}{key}.")
        elif inner is not None:
            yield f"{prefix}{key}", inner
