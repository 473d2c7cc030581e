"""How much of the machine a pool of Ray actors leaves to the work: `python -m benchmarks.pool --help`.

Everything that is compared runs by turns in one run; a figure is the median, over the rounds, of the ratio
within a round (rate of the pool over rate of the bare loops; 1 is no loss).

score    candidates (accuracy, recalibrated) through 1 actor, against a bare loop in one process; through 2
         actors, against two bare loops at once
train    steps of 8 paths by 2 replicas, against two processes that each do the same steps alone, at once
control  candidates a second of a whole search loop (ask, dispatch, collect, ledger with fsync, tell) whose
         score is read from a table of costs: in rounds of 200 and with one in flight, through an actor and in
         the search's own process. With one in flight a call and a commit follow on each other: beside it
         stand the rates of bare calls of an actor, of bare commits, and of the two by turns, which no search
         that commits before it tells can exceed

The supernet is NAS-Bench-201's with C = 16 (and 4) and N = 1, on random images of CIFAR-10's size. Bare loops
call `Replica` in processes of their own, as actors do, with one thread each.
"""

import argparse
import datetime
import itertools
import json
import logging
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from benchmarks.randwire import RESULTS, processor
from cluster.files import write_once
from cluster.ledger import Ledger
from cluster.pool import LocalPool, Pool
from cluster.ray_pool import RayPool
from cluster.recipe_spaces import NasBench201Section
from cluster.recorder import Recorder
from cluster.replica import Replica, ReplicaJob, ScoringSettings
from cluster.search_loop import Phase, SearchLoop
from cluster.version import code_version
from networks.architecture import Shape
from networks.counters import counter_random
from networks.spaces.nasbench201 import NasBench201Space
from networks.spaces.space import Genes
from searchers.problem import Objective, Problem
from searchers.random_search import RandomSettings
from trainers.data import DataSettings
from trainers.one_shot_settings import OneShotSettings

WHAT = ("score", "train", "control")
ROUND_SIZES = (200, 1)
SEED = 0
SEGMENT = 800  # bytes


def images(settings: object) -> dict[str, object]:
    """A data set of CIFAR-10's shape, drawn at random."""
    draws = np.random.default_rng(SEED)
    return {
        "x_train": draws.integers(0, 256, (2000, 32, 32, 3), np.uint8),
        "y_train": np.arange(2000) % 10,
        "x_validation": draws.integers(0, 256, (500, 32, 32, 3), np.uint8),
        "y_validation": np.arange(500) % 10,
    }


def job(channels: int, scores: tuple[str, ...] = ("accuracy",), supernet: bool = True) -> ReplicaJob:
    return ReplicaJob(
        space=NasBench201Section(channels=channels, cells=1),
        data=DataSettings(name="benchmarks.pool:images"),
        supernet=OneShotSettings(steps=10_000, batch_size=64, paths_per_step=8) if supernet else None,
        scoring=ScoringSettings(names=scores, batch_size=50),
        seed=SEED,
    )


def space_of(job: ReplicaJob) -> NasBench201Space:
    space = job.space.build(Shape(3, 32, 32), 10)
    assert isinstance(space, NasBench201Space)
    return space


def sampled(job: ReplicaJob, number: int, start: int = 0) -> list[Genes]:
    space = space_of(job)
    return [space.sample(counter_random(SEED, "candidate", start + i)) for i in range(number)]


# Bare loops ---------------------------------------------------------------------------------------


class BareLoop:
    """A `Replica` in a process of its own, driven through a pipe: one message there, one back."""

    def __init__(self, job: ReplicaJob) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=bare, args=(job, other), daemon=True)
        self._process.start()
        other.close()

    def begin(self, method: str, argument: object) -> None:
        self._pipe.send((method, argument))

    def end(self) -> Any:
        return self._pipe.recv()

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


def bare(job: ReplicaJob, pipe: Connection) -> None:
    replica = Replica(job)
    while True:
        try:
            method, argument = pipe.recv()
        except EOFError:
            return
        pipe.send(getattr(replica, method)(argument))


def at_once(loops: Sequence[BareLoop], method: str, argument: object) -> Any:
    """All loops do the same; the last one's answer."""
    for loop in loops:
        loop.begin(method, argument)
    return [loop.end() for loop in loops][-1]


@contextmanager
def arms(job: ReplicaJob, actors: Sequence[int]) -> Iterator[tuple[list[BareLoop], dict[int, RayPool]]]:
    """Two bare loops, and a pool for each number of actors; all wait without using the processor."""
    loops = [BareLoop(job) for _ in range(2)]
    pools: dict[int, RayPool] = {}
    try:
        for number in actors:
            pools[number] = RayPool(job, number, cpus=0.5)
        yield loops, pools
    finally:
        for pool in pools.values():
            pool.close()
        for loop in loops:
            loop.close()


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def interleaved(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, one figure a round; the order turns from round to round. One round goes before."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(-1, rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            taken = seconds(runs[name])
            if turn >= 0:
                times[name].append(taken)
    return times


def compared(what: str, bare: list[float], loops: int, pool: list[float], unit_s: float) -> dict[str, Any]:
    """The pool's rate over that of so many loops that do as much each, in the same round."""
    ratios = [mine / (loops * theirs) for mine, theirs in zip(bare, pool, strict=True)]
    row = {"what": what, "ratio": round(statistics.median(ratios), 3)}
    return row | {"low": round(min(ratios), 3), "high": round(max(ratios), 3), "ms": round(1000 * unit_s, 1)}


def score(options: argparse.Namespace) -> list[dict[str, Any]]:
    described = job(16)
    candidates = sampled(described, options.candidates)

    def through(pool: RayPool) -> None:
        pool.submit(candidates)
        assert not any(result.reason for result in pool.collect(len(candidates)))

    with arms(described, (1, 2)) as (loops, pools):
        times = interleaved(
            {
                "one": lambda: at_once(loops[:1], "score", candidates),
                "two": lambda: at_once(loops, "score", candidates),
                "actor": lambda: through(pools[1]),
                "actors": lambda: through(pools[2]),
            },
            options.rounds,
        )
    each = statistics.median(times["one"]) / len(candidates)
    return [
        compared("score, 1 actor", times["one"], 1, times["actor"], each),
        compared("score, 2 actors", times["two"], 2, times["actors"], each),
    ]


def train(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for channels in (16, 4):
        steps = options.steps * (1 if channels == 16 else 2)
        with arms(job(channels), (2,)) as (loops, pools):
            times = interleaved(
                {
                    "two": partial(at_once, loops, "train", steps),
                    "replicas": partial(pools[2].train, steps),
                },
                options.rounds,
            )
        each = statistics.median(times["two"]) / steps
        rows.append(compared(f"train, C={channels}, 2 replicas", times["two"], 2, times["replicas"], each))
    return rows


def control(options: argparse.Namespace) -> list[dict[str, Any]]:
    described = job(16, scores=("params",), supernet=False)
    pool = RayPool(described, 1)
    pools: dict[str, Pool] = {"1 actor": pool, "this process": LocalPool(described)}
    rates: dict[str, list[float]] = {
        f"control, rounds of {size}, {place}": [] for place in pools for size in ROUND_SIZES
    }
    alone: dict[str, list[float]] = {"commits": [], "actor calls": [], "a call and a commit by turns": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds + 1):
            for (place, used), size in itertools.product(pools.items(), ROUND_SIZES):
                number = options.asks if size > 1 else options.asks // 4
                rate = control_rate(used, described, size, number, Path(folder) / f"{turn}-{size}-{place}")
                if turn:
                    rates[f"control, rounds of {size}, {place}"].append(rate)
            for what, found in alone.items():
                rate = bare_rate(pool, options.asks // 4, Path(folder) / f"{turn}-{what}", what)
                if turn:
                    found.append(rate)
    for used in pools.values():
        used.close()
    return [
        {"what": what, "rate": round(statistics.median(found))}
        | {"low": round(min(found)), "high": round(max(found))}
        for what, found in {**rates, **{f"{what}, alone": found for what, found in alone.items()}}.items()
    ]


def bare_rate(pool: RayPool, number: int, folder: Path, what: str) -> float:
    """Calls of an actor that looks one candidate up, commits of files as large as its segment, or both, one
    at a time: so many a second."""
    folder.mkdir()
    actor = pool._members.alive[0].actor
    candidates = (next(space_of(pool._members.job).enumerate()),)

    def run() -> None:
        for one in range(number):
            if "call" in what:
                ray.get(actor.score.remote(candidates), timeout=60)
            if "commit" in what:
                write_once(folder / str(one), b"x" * SEGMENT)

    return number / seconds(run)


def control_rate(pool: Pool, job: ReplicaJob, round_size: int, number: int, folder: Path) -> float:
    """Candidates a second of a search of so many, each commit synced to the disk."""
    space = space_of(job)
    problem = Problem(space, (Objective(metric="params"),), SEED)
    searcher = RandomSettings(budget=number).build(problem)
    loop = SearchLoop(
        "benchmark",
        space,
        [Phase("search", searcher)],
        Recorder(Ledger(folder)).write,
        round_size=round_size,
    )

    def run() -> None:
        while not loop.finished:
            loop.advance(pool)

    taken = seconds(run)
    assert loop.evaluations == number
    return number / taken


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--candidates", type=int, default=40, help="scored in a round")
    parser.add_argument("--steps", type=int, default=8, help="trained in a round (twice as many at C=4)")
    parser.add_argument("--asks", type=int, default=4000, help="of the control plane, in a round")
    parser.add_argument("--quick", action="store_true", help="one short round: that it runs")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--record", action="store_true", help="append a dated entry to RESULTS.md")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.candidates, options.steps, options.asks = 1, 8, 2, 400
    return options


def main() -> None:
    options = arguments()
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    torch.set_num_threads(1)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    rows: list[dict[str, Any]] = []
    for what in options.what:
        found = {"score": score, "train": train, "control": control}[what](options)
        print(*map(line, found), sep="\n", flush=True)
        rows += found
    ray.shutdown()
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    if options.record:
        record(rows)


def line(row: dict[str, Any]) -> str:
    if "rate" in row:
        return f"{row['what']:36} {row['rate']:6}/s {row['low']}-{row['high']}"
    return f"{row['what']:28} {row['ratio']:.3f} {row['low']:.3f}-{row['high']:.3f} {row['ms']:8.1f} ms each"


def record(rows: list[dict[str, Any]]) -> None:
    when = datetime.datetime.now(datetime.UTC).date()
    entry = [
        f"\n## {when}: pools of Ray actors",
        f"\n{processor()}, torch {torch.__version__}, Ray {ray.__version__}, Python "
        f"{platform.python_version()}; commit {code_version()}; "
        f"`python -m benchmarks.pool {' '.join(sys.argv[1:])}`\n",
        "```\n" + "\n".join(map(line, rows)) + "\n```",
    ]
    with RESULTS.open("a") as file:
        file.write("\n".join(entry) + "\n")


if __name__ == "__main__":
    main()
