"""How many replicas one driver keeps busy: `python -m benchmarks.scaling --help`.

The replicas only wait (benchmarks/simulated.py): each candidate takes 50 ms, give or take half of it, and one
in a hundred fails. All that a search does about them is real: asking, dispatch, Ray's calls, the ledger with
its syncs, telling. Told are, for each number of replicas:

busy       the share of their time in which replicas scored, from the moment when all have begun until the
           first has nothing more to do (what is left then is the drain, printed apart)
cpu        milliseconds of processor time a candidate: of the driver, and of Ray's own processes on the head

docs/scaling.md says what follows from it.
"""

import argparse
import datetime
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import ray

from benchmarks.randwire import RESULTS, processor
from benchmarks.simulated import BEGAN, SimulatedActor, SimulatedJob
from cluster import members
from cluster.ledger import Ledger, Row
from cluster.ray_pool import RayPool
from cluster.recipe_spaces import NasBench201Section
from cluster.recorder import Recorder
from cluster.search_loop import Phase, SearchLoop
from cluster.version import code_version
from networks.architecture import Shape
from searchers.problem import Objective, Problem
from searchers.random_search import RandomSettings

SEED = 0
HEAD = ("gcs_server", "raylet")  # what a cluster's head runs of Ray


def measure(replicas: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One search of so many candidates a replica."""
    number = min(options.most, options.each * replicas)
    with mock.patch.object(members, "ReplicaActor", SimulatedActor):
        pool = RayPool(SimulatedJob(options.seconds), replicas, cpus=0)  # type: ignore[arg-type]
    rows: list[Row] = []
    recorder = Recorder(Ledger(folder))
    recorder.listeners.append(rows.extend)
    space = NasBench201Section(channels=4, cells=1).build(Shape(3, 32, 32), 10)
    searcher = RandomSettings(budget=number).build(Problem(space, (Objective(metric="params"),), SEED))
    loop = SearchLoop(
        "benchmark", space, [Phase("search", searcher)], recorder.write,
        round_size=options.round, rounds_in_flight=max(1, options.in_flight // options.round),
        needed=("params",),
    )  # fmt: skip
    before, started = spent(), time.monotonic()
    while not loop.finished:
        loop.advance(pool)
    taken = time.monotonic() - started
    after = spent()
    pool.close()
    assert len(rows) == number
    busy, drain = business(rows)
    return {
        "replicas": replicas, "candidates": number, "busy": round(busy, 4), "drain_s": round(drain, 2),
        "rate": round(number / taken), "failed": sum(row.status == "failed" for row in rows),
        **{f"{who}_ms": round(1000 * (after[who] - before[who]) / number, 4) for who in after},
    }  # fmt: skip


def business(rows: Sequence[Row]) -> tuple[float, float]:
    """The share of their time that replicas worked before the drain, and the drain's seconds."""
    work: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        began = row.metrics[BEGAN]
        work.setdefault(row.place, []).append((began, began + row.seconds))
    start = max(min(began for began, _ in done) for done in work.values())
    ends = [max(end for _, end in done) for done in work.values()]
    stop = min(ends)
    inside = (max(0.0, min(end, stop) - max(began, start)) for done in work.values() for began, end in done)
    return sum(inside) / (len(work) * (stop - start)), max(ends) - stop


def spent() -> dict[str, float]:
    """Seconds of processor time: of this process, and of Ray's on this machine."""
    return {"driver": time.process_time(), "head": sum(processor_seconds(HEAD))}


def processor_seconds(names: Sequence[str]) -> Iterator[float]:
    """Of each child of this process that is called so."""
    tick = os.sysconf("SC_CLK_TCK")
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            name, fields = (folder / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
            parent, user, system = (int(fields.split()[place]) for place in (1, 11, 12))
            if name in names and parent == os.getpid():
                yield (user + system) / tick


@contextmanager
def own_ray() -> Iterator[None]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=0.05, help="of a candidate")
    parser.add_argument("--each", type=int, default=300, help="candidates a replica")
    parser.add_argument("--most", type=int, default=15_000, help="candidates in all")
    parser.add_argument("--round", type=int, default=200)
    parser.add_argument("--in-flight", type=int, default=2400)
    parser.add_argument("--rounds", type=int, default=3, help="repetitions")
    parser.add_argument("--record", action="store_true", help="append a dated entry to RESULTS.md")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    found = []
    with own_ray(), tempfile.TemporaryDirectory() as folder:
        for replicas in options.replicas:
            turns = [
                measure(replicas, options, Path(folder, f"{replicas}-{turn}"))
                for turn in range(options.rounds)
            ]
            found.append({key: statistics.median(turn[key] for turn in turns) for key in turns[0]})
            print(json.dumps(found[-1]), flush=True)
    if options.record:
        record(found, options)


def record(found: list[dict[str, Any]], options: argparse.Namespace) -> None:
    when = datetime.datetime.now(datetime.UTC).date()
    head = ("replicas", "candidates", "failed", "busy", "drain_s", "rate", "driver_ms", "head_ms")
    entry = [
        "", f"## {when}: simulated replicas, candidates of {1000 * options.seconds:g} ms", "",
        f"`python -m benchmarks.scaling` at {code_version()}, {processor()}, {os.cpu_count()} cores, Ray"
        f" {ray.__version__}; medians of {options.rounds}. Rounds of {options.round}, {options.in_flight} in"
        " flight; milliseconds are of processor time, a candidate.", "",
        f"| {' | '.join(head)} |", "|" + "---|" * len(head),
        *(f"| {' | '.join(str(row[key]) for key in head)} |" for row in found),
    ]  # fmt: skip
    with RESULTS.open("a") as file:
        file.write("\n".join(entry) + "\n")


if __name__ == "__main__":
    main()
