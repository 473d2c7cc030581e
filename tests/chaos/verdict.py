"""What must hold when a search has ended, whatever was done to it."""

import hashlib
from collections import Counter
from typing import NamedTuple

from mlflow import MlflowClient

from cluster.checkpoints import CheckpointStore
from cluster.files import AnyPath
from cluster.ledger import Row
from cluster.run import Run, runs_of
from cluster.shrinking import RUNGS, Rungs
from cluster.snapshots import SNAPSHOTS
from cluster.trial import candidate_folder
from tests.chaos.subjects import GRIDS, Subject


class Digests(NamedTuple):
    """Of a finished search. `asked`: its candidates."""

    ledger: str
    weights: str
    asked: int


class Count(NamedTuple):
    """Candidates that lack their final row or their run in MLflow, and those that have more than one."""

    lost: int
    duplicated: int


def digests(run: Run, subject: Subject) -> Digests:
    rows = list(run.ledger.rows())
    return Digests(run.ledger.digest(), weights_digest(run, subject, rows), len(final(rows)))


def final(rows: list[Row]) -> Counter[int]:
    """How many final rows each asked candidate has."""
    return Counter(row.candidate.ask_index for row in rows if row.final)


def weights_digest(run: Run, subject: Subject, rows: list[Row]) -> str:
    """Of the trained supernet and what its space lost, or of the networks of a grid that were trained to the
    end."""
    folders: list[AnyPath] = [run.folder / "supernet"]
    if subject.name in GRIDS:
        grids = [(run, rows)]
        for beside in runs_of(f"{subject.raw['name']}-{SNAPSHOTS}", run.folder / SNAPSHOTS):
            grids.append((beside, list(beside.ledger.rows())))
        folders = [
            candidate_folder(one.folder, row.candidate)
            for one, own in grids
            for row in own
            if row.status == "ok"
        ]
    found = hashlib.sha256()
    for folder in folders:
        checkpoint = CheckpointStore(folder).newest()
        assert checkpoint is not None, f"no checkpoint in {folder}"
        found.update(f"{folder.name} {checkpoint.epoch}".encode())
        for name, tensor in sorted(checkpoint.tensors.items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.numpy().tobytes())
    for rung in Rungs(run.folder / RUNGS).read():
        found.update(f"{rung.step} {rung.dropped}".encode())
    return found.hexdigest()


def children(run: Run, uri: str) -> tuple[str, Counter[str]]:
    """How MLflow says that the search ended, and how many runs each candidate id has there. Raises
    RuntimeError unless there is one parent."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(str(run.about["experiment"]))
    assert experiment is not None, "MLflow has no experiment of this search"
    pages, token = [], None
    while token != "":
        page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
        pages.append(page)
        token = page.token or ""
    found = [one for page in pages for one in page]
    parents = [
        one for one in found if one.info.run_name == run.name and "mlflow.parentRunId" not in one.data.tags
    ]
    if len(parents) != 1:
        raise RuntimeError(f"MLflow has {len(parents)} runs called {run.name}")
    parent = parents[0].info
    mine = [one for one in found if one.data.tags.get("mlflow.parentRunId") == parent.run_id]
    unfinished = sum(one.info.status not in ("FINISHED", "FAILED") for one in mine)
    said = parent.status if not unfinished else f"{parent.status}, {unfinished} children unfinished"
    return said, Counter(one.data.tags["weft.candidate_id"] for one in mine)


def judge(run: Run, subject: Subject, uri: str, expected: Digests) -> tuple[Count, list[str]]:
    """What is lost and duplicated, and everything that is otherwise than in the undisturbed search."""
    wrong = []
    if run.ending != "FINISHED":
        wrong.append(f"the search ended {run.ending}")
    found = digests(run, subject)
    if found.ledger != expected.ledger:
        wrong.append("the ledger differs from the undisturbed search's")
    if found.weights != expected.weights:
        wrong.append("the weights differ from the undisturbed search's")
    rows = list(run.ledger.rows())
    ids = {row.candidate.id for row in rows}
    asked = final(rows)
    status, shown = children(run, uri)
    if status != "FINISHED":
        wrong.append(f"in MLflow the search is {status}")
    lost = expected.asked - len(asked) + len(ids - set(shown))
    twice = sum(number - 1 for number in asked.values()) + sum(number - 1 for number in shown.values())
    count = Count(lost, twice + len(set(shown) - ids))
    if count != (0, 0):
        wrong.append(f"{count.lost} lost, {count.duplicated} duplicated")
    return count, wrong
