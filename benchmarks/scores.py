"""What scores cost and how well they rank: `python -m benchmarks.scores --help`.

seconds      CPU seconds of one candidate of NAS-Bench-201's space, for each score: random candidates, all
             scores in turn on each of them; a figure is the median over the candidates, beside the quickest
             and the slowest. small is C = 4, N = 1 and full C = 16, N = 5, on CIFAR-10 images. Scores of a
             supernet are given one that is not trained; that changes nothing about their work.
correlation  tau-b of each score that needs no supernet with the table's mean test accuracy after 200 epochs,
             over random live cells, at --channels and --cells, and its 95 % bootstrap interval.
angles       seconds of the angles of all 15,625 cells once the inner products are there, and how many times
             that the naive form takes for each cell (tests/trainers/scores/angle_reference.py, --naive
             random cells a round): medians of --rounds rounds, in which both run in turn, and their
             extremes. The supernet is not trained; that changes nothing about the work.

One pinned thread, and glibc's thresholds are raised as in benchmarks/randwire.py.
"""

import argparse
import dataclasses
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.randwire import MALLOC, RESULTS, processor
from cluster.version import code_version
from networks.architecture import Shape
from networks.counters import counter_random
from networks.spaces.choices import ChoiceSpace
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space, live_paths
from networks.spaces.space import Genes
from networks.supernet import build_supernet
from tests.trainers.scores.angle_reference import naive_angle
from trainers.data import DataSettings, open_data
from trainers.ranking import kendall_tau_b
from trainers.scores import SCORES, Bench
from trainers.scores.angle import AngleTable
from trainers.table import Table

SIZES = {"small": NasBench201Settings(channels=4, cells=1), "full": NasBench201Settings(channels=16, cells=5)}
IMAGE, CLASSES = Shape(3, 32, 32), 10
TRUTH = "c10_test_200"
Row = dict[str, Any]


def bench_of(settings: NasBench201Settings, options: argparse.Namespace) -> Bench:
    path = options.data / "cifar10_lossless_5593.npz"
    data = open_data(DataSettings(name="npz", path=path, validation=1000))
    space = NasBench201Space(settings, IMAGE, CLASSES)
    supernet = build_supernet(space, 0)
    initial = {name: value.detach().clone() for name, value in supernet.named_parameters()}
    return Bench(space, data, seed=0, batch_size=options.batch, supernet=supernet, initial=initial)


def live_cells(space: ChoiceSpace, count: int) -> list[Genes]:
    """The same ones at every call."""
    rng, found = counter_random(0, "benchmark"), dict[Genes, None]()
    while len(found) < count:
        genes = space.sample(rng)
        if any(live_paths(genes)):
            found[genes] = None
    return list(found)


def seconds(options: argparse.Namespace) -> Iterator[Row]:
    for size in options.sizes:
        bench = bench_of(SIZES[size], options)
        cells = live_cells(bench.space, options.candidates + 1)
        benches = {name: dataclasses.replace(bench) for name in options.scores}  # each has its own memory
        taken: dict[str, list[float]] = {name: [] for name in options.scores}
        for number, genes in enumerate(cells):
            for name in options.scores:
                start = time.process_time()
                SCORES[name](benches[name], genes)
                if number:  # the first candidate fills what scores remember
                    taken[name].append(time.process_time() - start)
        for name, some in taken.items():
            yield {
                "size": size,
                "score": name,
                "seconds": statistics.median(some),
                "low": min(some),
                "high": max(some),
            }


def correlation(options: argparse.Namespace) -> Iterator[Row]:
    bench = bench_of(NasBench201Settings(channels=options.channels, cells=options.cells), options)
    table = Table.read(options.data / "nasbench201.csv", bench.space, [TRUTH])
    cells = live_cells(bench.space, options.correlate)
    truth = [table.metrics(genes)[TRUTH] for genes in cells]
    for name in options.scores:
        if SCORES[name].needs_supernet:
            continue
        start = time.process_time()
        scored = [SCORES[name](bench, genes) for genes in cells]
        ranking = kendall_tau_b(scored, truth)
        yield {
            "score": name,
            "tau": ranking.tau,
            "low": ranking.low,
            "high": ranking.high,
            "seconds": (time.process_time() - start) / len(cells),
        }


def angles(options: argparse.Namespace) -> Iterator[Row]:
    for size in options.sizes:
        space = NasBench201Space(SIZES[size], IMAGE, CLASSES)
        supernet, before = build_supernet(space, 0), build_supernet(space, 1)
        initial = {name: value.detach() for name, value in before.named_parameters()}
        start = time.process_time()
        table = AngleTable.of(supernet, initial)
        made = time.process_time() - start
        everything = list(space.enumerate())
        all_cells, ratios = [], []
        for number in range(options.rounds + 1):
            some = counter_random(number, "benchmark").sample(range(len(everything)), options.naive)
            start = time.process_time()
            found = table.angles(everything)
            middle = time.process_time()
            naive = [naive_angle(supernet, initial, everything[i]) for i in some]
            end = time.process_time()
            if max(abs(found[i] - angle) for i, angle in zip(some, naive, strict=True)) > 1e-9:
                raise SystemExit("the two forms differ")
            if number:  # the first round warms up
                all_cells.append(middle - start)
                ratios.append((end - middle) / len(some) / ((middle - start) / len(everything)))
        yield {
            "size": size,
            "table_seconds": made,
            "all_seconds": statistics.median(all_cells),
            "all_high": max(all_cells),
            "ratio": statistics.median(ratios),
            "ratio_low": min(ratios),
            "ratio_high": max(ratios),
        }


def seconds_line(row: Row) -> str:
    return f"{row['size']:6} {row['score']:24} {row['seconds']:8.4f} s {row['low']:8.4f}-{row['high']:.4f}"


def correlation_line(row: Row) -> str:
    tau = f"{row['tau']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
    return f"{row['score']:24} {tau} {row['seconds']:8.4f} s"


def angles_line(row: Row) -> str:
    cells = f"all cells {row['all_seconds']:.4f} s (at most {row['all_high']:.4f})"
    naive = f"naive {row['ratio']:.0f} times ({row['ratio_low']:.0f}-{row['ratio_high']:.0f})"
    return f"{row['size']:6} inner products {row['table_seconds']:.3f} s, {cells}, {naive}"


# What can be measured: rows, and a row as a line.
PARTS: dict[str, tuple[Callable[[argparse.Namespace], Iterator[Row]], Callable[[Row], str]]] = {
    "seconds": (seconds, seconds_line),
    "correlation": (correlation, correlation_line),
    "angles": (angles, angles_line),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=PARTS, default=["seconds"])
    parser.add_argument("--scores", nargs="+", choices=SCORES, default=list(SCORES))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--candidates", type=int, default=7, help="cells that are timed")
    parser.add_argument("--correlate", type=int, default=100, help="cells that are ranked")
    parser.add_argument("--rounds", type=int, default=7, help="of the angles")
    parser.add_argument("--naive", type=int, default=20, help="cells a round, for the naive form")
    parser.add_argument("--channels", type=int, default=8, help="C of the cells that are ranked")
    parser.add_argument("--cells", type=int, default=1, help="N of the cells that are ranked")
    parser.add_argument("--data", type=Path, help="folder with cifar10_lossless_5593.npz and nasbench201.csv")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--record", action="store_true", help="append a dated entry to RESULTS.md")
    options = parser.parse_args()
    if options.correlate < 10:
        parser.error("--correlate needs 10 cells or more")
    if options.data is None:
        if not os.environ.get("WEFT_DATA"):
            parser.error("give --data, or set WEFT_DATA")
        options.data = Path(os.environ["WEFT_DATA"])
    return options


def main() -> None:
    options = arguments()
    if any(os.environ.get(key) != value for key, value in MALLOC.items()):
        again = [sys.executable, "-m", "benchmarks.scores", *sys.argv[1:]]
        os.execve(sys.executable, again, os.environ | MALLOC)
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows: list[Row] = []
    lines: list[str] = []
    for what in options.what:
        measure, line = PARTS[what]
        for row in measure(options):
            print(line(row), flush=True)
            rows.append({"what": what, **row})
            lines.append(line(row))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.record:
        record(lines, options)


def record(lines: list[str], options: argparse.Namespace) -> None:
    when = datetime.datetime.now(datetime.UTC).date()
    parts = ", ".join(options.what)
    entry = [
        f"\n## {when}: scores of NAS-Bench-201 cells ({parts})",
        f"\n{processor()}, torch {torch.__version__}, Python {platform.python_version()}; batch "
        f"{options.batch}, {options.candidates} cells timed, {options.correlate} ranked at "
        f"C={options.channels}, N={options.cells}; commit {code_version()}\n",
        "```\n" + "\n".join(lines) + "\n```",
    ]
    with RESULTS.open("a") as file:
        file.write("\n".join(entry) + "\n")


if __name__ == "__main__":
    main()
