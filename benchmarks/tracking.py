"""What MLflow costs a search, and how fast it takes one: `python -m benchmarks.tracking --help`.

slowdown   10,000 candidates of some 20 ms of computing (NASWOT of an untrained network), scored by two
           replicas on two cores, with and without MLflow, by turns: seconds from first step to last tell
drain      runs a second that the writer makes in SQLite once the search has ended, and the memory of all
           processes while it ran
client     seconds that MLflow's client takes for the first 1,000 children, and for one by its candidate's id
frontier   all 15,625 cells of NAS-Bench-201, read from its table, as parquet; runs for the frontier alone

A whole run takes half an hour. Nothing else should run beside it.
"""

import argparse
import datetime
import json
import os
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}

import pyarrow.parquet as pq
from mlflow import MlflowClient
from rich.console import Console

from benchmarks.randwire import RESULTS, processor
from cluster import experiment
from cluster.experiment import Place, search
from cluster.recipe import AnyRecipe, recipe_model
from cluster.run import Run
from cluster.stopwatch import TIMES
from cluster.tracker import Cursor, WriterProcess
from cluster.version import code_version

EVERY_S = 2.0  # between looks at memory
PAGE = 1000


class NoTracking(WriterProcess):
    """Nobody writes to MLflow."""

    def start(self) -> None:
        """Nothing."""

    def drain(self, *of: Any) -> bool:
        return True


class Undrained(WriterProcess):
    """Writes while the search runs, and ends with it."""

    def drain(self, *of: Any) -> bool:
        self.stop()
        return True


def recipe_of(storage: Path, **changes: object) -> AnyRecipe:
    raw: dict[str, Any] = {
        "version": 1, "name": "tracked", "storage": str(storage),
        "space": {"kind": "nasbench201", "channels": 8, "cells": 1},
        "searcher": {"kind": "random", "budget": 10_000},
        "data": {"name": "digits"}, "score": {"kind": "computed", "names": ["naswot"], "batch_size": 48},
        "round": 100, "in_flight": 200, "baseline": False,
        "resources": {"workers": 2, "cpus": 1}, "tracking": {"runs": "all"},
    }  # fmt: skip
    raw |= changes
    return recipe_model(raw).model_validate(raw)


def run_search(
    recipe: AnyRecipe, writer: type[WriterProcess], place: Place | None = None
) -> tuple[Run, float]:
    """The run, and seconds from its first step to its last tell."""
    with mock.patch.object(experiment, "WriterProcess", writer):
        run = search(recipe, place or Place(), Console(quiet=True)).run
    return run, float(json.loads((run.work / TIMES).read_text())["wall"])


@contextmanager
def memory() -> Iterator[dict[str, list[float]]]:
    """MB of the driver, of the search's trial and of the writer, looked at while this lasts."""
    found: dict[str, list[float]] = defaultdict(list)
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(EVERY_S):
            for name, pids in named_processes().items():
                found[name].append(sum(map(resident, pids)))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield found
    finally:
        ended.set()
        looking.join()


def named_processes() -> dict[str, list[int]]:
    marks = {"trial": b"ray::ResourceTrainable", "writer": b"cluster.writer"}
    found: dict[str, list[int]] = {"driver": [os.getpid()]}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (folder / "cmdline").read_bytes()
            for name, mark in marks.items():
                if mark in line:
                    found.setdefault(name, []).append(int(folder.name))
    return found


def resident(pid: int) -> float:
    """MB in memory."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0


def slowdown(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    changes = {"searcher": {"kind": "random", "budget": options.candidates}}
    ratios, bare = [], []
    for turn in range(options.rounds):
        storage = folder / str(turn)
        _, without = run_search(recipe_of(storage / "without", **changes), NoTracking)
        _, with_it = run_search(recipe_of(storage / "with", **changes), Undrained)
        ratios.append(with_it / without)
        bare.append(without)
        print(f"round {turn}: {without:.1f} s without, {with_it:.1f} s with MLflow", flush=True)
    return {
        "candidates": options.candidates, "seconds_without": round(statistics.median(bare), 1),
        "ms_each": round(2000 * statistics.median(bare) / options.candidates, 1),
        "ratio": round(statistics.median(ratios), 4),
        "low": round(min(ratios), 4), "high": round(max(ratios), 4),
    }  # fmt: skip


def drain(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A whole search, with MLflow, to the end of it; then what its client finds."""
    recipe = recipe_of(folder / "drain", searcher={"kind": "random", "budget": options.candidates})
    seen: dict[str, float] = {}

    class Watched(WriterProcess):
        def drain(self, *of: Any) -> bool:
            if not seen:
                seen["left"] = self.outbox * options.candidates / len(self.run.ledger.segments())
                seen["began"] = time.monotonic()
            done = super().drain(*of)
            seen["ended"] = time.monotonic()
            return done

    with memory() as found:
        run, _ = run_search(recipe, Watched)
    assert Cursor.load(run).segments == len(run.ledger.segments())
    taken = seen["ended"] - seen["began"]
    grown = {
        f"{name}_mb": f"{values[len(values) // 5]:.0f} to {max(values[len(values) // 5 :]):.0f}"
        for name, values in found.items()
    }
    return {
        "left": round(seen["left"]), "drain_s": round(taken, 1),
        "runs_a_second": round(seen["left"] / taken, 1),
        **grown, **client(run),
    }  # fmt: skip


def client(run: Run) -> dict[str, float]:
    found = MlflowClient(run.tracking_uri)
    experiment_id = found.get_experiment_by_name(run.about["experiment"]).experiment_id
    parent = found.search_runs([experiment_id], "tags.`weft.run` LIKE '%'")[0].info.run_id
    children = f"tags.`mlflow.parentRunId` = '{parent}'"
    one = next(iter(run.ledger.rows())).candidate.id
    times = {"first_1000_s": [], "by_id_s": []}  # type: dict[str, list[float]]
    for _ in range(5):
        started = time.monotonic()
        assert len(found.search_runs([experiment_id], children, max_results=PAGE)) == PAGE
        times["first_1000_s"].append(time.monotonic() - started)
        started = time.monotonic()
        assert len(found.search_runs([experiment_id], f"tags.`weft.candidate_id` = '{one}'")) == 1
        times["by_id_s"].append(time.monotonic() - started)
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def frontier(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    score = {"kind": "table", "path": str(options.table), "names": ["c10_valid_12"]}
    objectives = [{"metric": "c10_valid_12"}, {"metric": "macs", "maximise": False}]
    recipe = recipe_of(
        folder / "frontier", data={}, score=score, searcher={"kind": "grid"}, space={"kind": "nasbench201"},
        objectives=objectives, tracking={"runs": "frontier"}, round=625, in_flight=625, baseline=None,
    )  # fmt: skip
    started = time.monotonic()
    run, _ = run_search(recipe, WriterProcess, Place(local=True))
    taken = time.monotonic() - started
    found = MlflowClient(run.tracking_uri)
    experiment_id = found.get_experiment_by_name(run.about["experiment"]).experiment_id
    parent = found.search_runs([experiment_id], "tags.`weft.run` LIKE '%'")[0].info.run_id
    children = found.search_runs([experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    parquet = found.download_artifacts(parent, "ledger.parquet", str(folder))
    return {
        "rows_in_parquet": pq.read_metadata(parquet).num_rows, "children": len(children),
        "parquet_mb": round(Path(parquet).stat().st_size / 1e6, 2), "seconds_in_all": round(taken, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--what", nargs="+", default=["slowdown", "drain"], choices=WHAT)
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--table", type=Path, help="nasbench201.csv, for frontier")
    parser.add_argument("--record", action="store_true", help="append a dated entry to RESULTS.md")
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for what in options.what:
            found[what] = WHAT[what](options, Path(folder))
            print(what, json.dumps(found[what]), flush=True)
    if options.record:
        record(found)


WHAT = {"slowdown": slowdown, "drain": drain, "frontier": frontier}


def record(found: dict[str, dict[str, Any]]) -> None:
    when = datetime.datetime.now(datetime.UTC).date()
    entry: Sequence[str] = [
        "", f"## {when}: what MLflow costs a search, and how fast it takes one", "",
        f"`python -m benchmarks.tracking` at {code_version()}, {processor()}, {os.cpu_count()} cores.", "",
        "| what | figure | |", "|---|---|---|",
        *(f"| {what} | {name} | {value} |" for what, row in found.items() for name, value in row.items()),
    ]  # fmt: skip
    with RESULTS.open("a") as file:
        file.write("\n".join(entry) + "\n")


if __name__ == "__main__":
    main()
