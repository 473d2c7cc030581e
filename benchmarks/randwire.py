"""How fast and how lean the executors of a RandWire stage are: `python -m benchmarks.randwire --help`.

Variants run interleaved in one process on one pinned thread, on the same WS(4, 0.75) graphs with N = 32;
a figure is the median over graphs and rounds of a variant's time over the limit's in the same round.

limit    the stage's ReLUs, convolutions and batch normalisations back to back, with no aggregation: a
         bound that no executor of the same kernels can pass, except by saving ReLUs
weft     the product: networks/whole_stage.py in training; folded, in place, in inference
autograd the product's plain path, networks/execution.py
per_edge the plain executor of public code (tests/networks/reference.py)
"""

import argparse
import copy
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "RESULTS.md"
# glibc hands large tensors back to the kernel when they are freed, and every new one is then faulted in
# page by page. The same for all variants; `--malloc default` leaves it as it is.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "8589934592"}

if (
    __name__ == "__main__"
    and "--malloc=default" not in sys.argv
    and "MALLOC_TRIM_THRESHOLD_" not in os.environ
):
    os.execve(
        sys.executable, [sys.executable, "-m", "benchmarks.randwire", *sys.argv[1:]], os.environ | MALLOC
    )
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.architecture import Shape
from networks.folding import fold_batch_norm
from networks.generators import WattsStrogatz
from networks.network import Network, build_network
from networks.plan import node_key
from networks.randwire import RandWireTemplate
from networks.stage import GraphStage
from tests.networks.reference import per_edge

SIZES = {
    "imagenet": (RandWireTemplate(regime="small", channels=78), 8),
    "cifar": (RandWireTemplate(regime="cifar", channels=32, image=Shape(3, 32, 32), classes=10), 64),
}
LAYOUTS = {"channels_last": torch.channels_last, "NCHW": torch.contiguous_format}
TRAINING = ("limit", "weft", "autograd", "per_edge")
INFERENCE = ("limit", "weft", "weft_sliced", "per_edge")
SLICE = 16


class Joined(torch.autograd.Function):
    """Returns its first argument and hands the gradient to all: work whose result nobody reads is still
    done backward, at no cost."""

    @staticmethod
    def forward(ctx: Any, kept: Tensor, *others: Tensor) -> Tensor:
        ctx.others = len(others)
        return kept.view_as(kept)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return (gradient,) * (1 + ctx.others)


def limit(stage: GraphStage, x: Tensor) -> Tensor:
    """Every node's operation once: the sources on the stage's input, the others in a chain."""
    graph = stage.graph
    operations = [(node, stage.operations[node_key(node)]) for node in graph.order[1:-1]]
    reads_input = {edge.target for edge in graph.edges if edge.source in graph.inputs}
    sources = [operation(x) for node, operation in operations if node in reads_input]
    x = Joined.apply(*sources) if torch.is_grad_enabled() else sources[0]
    del sources
    for node, operation in operations:
        if node not in reads_input:
            x = operation(x)
    return x


def variant(network: Network, name: str, training: bool) -> Network:
    """A copy of the network that runs its stages in the given way; folded in inference."""
    made = copy.deepcopy(network) if training else fold_batch_norm(network)
    if name in ("limit", "per_edge"):
        run = {"limit": limit, "per_edge": per_edge}[name]
        for stage in made.graph_stages:
            stage.forward = run.__get__(stage)  # type: ignore[method-assign]
    if name == "autograd":
        made.set_executor("autograd")
    if name == "weft_sliced":
        made.batch_slice = SLICE
    return made


def step(network: Network, images: Tensor, labels: Tensor, training: bool) -> None:
    """A training step up to the gradients (the optimiser's part is the same for all), or an inference."""
    if training:
        network.zero_grad(set_to_none=True)
        F.cross_entropy(network(images), labels).backward()
    else:
        with torch.no_grad():
            network(images)


def prepared(size: str, layout: str, graph: int, batch: int | None = None) -> tuple[Network, Tensor, Tensor]:
    """A network with calibrated statistics (without them, denormal numbers slow everything), and a batch."""
    template, usual = SIZES[size]
    network = build_network(template.architecture(WattsStrogatz(k=4, p=0.75), graph), graph)
    draws = torch.Generator().manual_seed(graph)
    images = torch.randn(batch or usual, *template.image, generator=draws)
    labels = torch.randint(template.classes, (len(images),), generator=draws)
    network = network.to(memory_format=LAYOUTS[layout])
    images = images.contiguous(memory_format=LAYOUTS[layout])
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        network.train()(images)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return network, images, labels


def interleaved(runs: dict[str, Callable[[], None]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of each variant, one figure a round; the order turns from round to round."""
    for run in runs.values():
        run()
    first = min(_timed(run, 1) for run in runs.values())
    repeats = max(1, round(seconds / first))
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(_timed(runs[name], repeats))
    return times


def _timed(run: Callable[[], None], repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - start) / repeats


def measure(size: str, layout: str, training: bool, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each variant: median ratio to the limit, with the range of the graphs' medians."""
    names = [name for name in (TRAINING if training else INFERENCE) if name in options.variants]
    ratios: dict[str, list[list[float]]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for graph in range(options.graphs):
        network, images, labels = prepared(size, layout, graph)
        networks = {name: variant(network, name, training) for name in names}
        times = interleaved(
            {name: lambda n=made: step(n, images, labels, training) for name, made in networks.items()},
            options.rounds, options.seconds,
        )  # fmt: skip
        for name in names:
            pairs = zip(times[name], times["limit"], strict=True)
            ratios[name].append([mine / bound for mine, bound in pairs])
            seconds[name] += times[name]
    rows = []
    for name in names:
        medians = [statistics.median(one) for one in ratios[name]]
        rows.append(
            {
                "size": size, "what": "train" if training else "eval", "layout": layout, "variant": name,
                "ratio": round(statistics.median(sum(ratios[name], [])), 3),
                "low": round(min(medians), 3), "high": round(max(medians), 3),
                "ms": round(1000 * statistics.median(seconds[name]), 1),
            }
        )  # fmt: skip
    return rows


def peak_growth(size: str, layout: str, name: str) -> float:
    """MB by which three training steps raise this process's peak resident memory."""
    network, images, labels = prepared(size, layout, 0)
    made = variant(network, name, training=True)
    del network
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    for _ in range(3):
        step(made, images, labels, training=True)
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def memory(size: str, layout: str, names: list[str]) -> list[dict[str, Any]]:
    rows = []
    for name in names:
        command = [
            sys.executable,
            "-m",
            "benchmarks.randwire",
            "--malloc=default",
            "--peak",
            size,
            layout,
            name,
        ]
        environment = {key: value for key, value in os.environ.items() if key not in MALLOC}
        output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        rows.append({"size": size, "what": "memory", "layout": layout, "variant": name, "mb": float(output)})
    bound = rows[0]["mb"]
    return [row | {"ratio": round(row["mb"] / bound, 3)} for row in rows]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument(
        "--what", nargs="+", choices=["train", "eval", "memory"], default=["train", "eval", "memory"]
    )
    parser.add_argument("--variants", nargs="+", default=[*TRAINING, *INFERENCE], help="besides the limit")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--graphs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.3, help="least time of one variant in a round")
    parser.add_argument("--quick", action="store_true", help="one graph, three rounds")
    parser.add_argument("--malloc", choices=["raised", "default"], default="raised")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--record", action="store_true", help="append a dated entry to RESULTS.md")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.variants = {"limit", *options.variants}
    if options.quick:
        options.rounds, options.graphs = 3, 1
    return options


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if options.peak:
        print(peak_growth(*options.peak))
        return
    rows: list[dict[str, Any]] = []
    for size in options.sizes:
        for layout in options.layouts:
            for what in options.what:
                if what == "memory":
                    names = [name for name in TRAINING if name in options.variants]
                    found = memory(size, layout, names)
                else:
                    found = measure(size, layout, what == "train", options)
                print(*map(line, found), sep="\n", flush=True)
                rows += found
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def line(row: dict[str, Any]) -> str:
    cost = (
        f"{row['mb']:8.1f} MB"
        if "mb" in row
        else f"{row['ms']:8.1f} ms  {row['low']:.3f} to {row['high']:.3f}"
    )
    return f"{row['size']:9} {row['what']:7} {row['layout']:14} {row['variant']:12} {row['ratio']:.3f} {cost}"


if __name__ == "__main__":
    main()
