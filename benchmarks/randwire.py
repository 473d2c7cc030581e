"""How fast and how lean the executors of a RandWire stage are: `python -m benchmarks.randwire --help`.

Variants run interleaved in one process, on the same WS(4, 0.75) graphs with N = 32; a figure is the
median, over graphs and rounds, of a variant's time over the limit's in the same round. On the CPU: one
pinned thread, and the time is the process's CPU time, so that what else runs there counts as little as
can be.

limit         the stage's ReLUs, convolutions and batch normalisations back to back, with no aggregation
weft          the product: networks/whole_stage.py in training; folded and in place in inference
autograd      the product's plain path, networks/execution.py
per_edge      the plain executor of public code (tests/networks/reference.py)
weft_compiled torch.compile of the folded plain path (a minute of compilation for each graph)
*_graph       on a GPU: the same step, replayed as a CUDA graph

glibc gives large tensors back to the kernel when they are freed, and every new one is then faulted in
page by page. So the program starts itself again with raised thresholds, the same for every variant;
`--malloc=default` leaves them. Memory is measured with glibc as it is.
"""

import argparse
import copy
import datetime
import itertools
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

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cluster.version import code_version
from networks.architecture import Shape
from networks.folding import fold_batch_norm
from networks.generators import WattsStrogatz
from networks.network import Network, build_network
from networks.plan import node_key
from networks.randwire import RandWireTemplate
from networks.stage import GraphStage
from tests.networks.reference import per_edge

RESULTS = Path(__file__).parent / "RESULTS.md"
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "OMP_NUM_THREADS": "1",
}
SIZES = {
    "imagenet": (RandWireTemplate(regime="small", channels=78), 8),
    "cifar": (RandWireTemplate(regime="cifar", channels=32, image=Shape(3, 32, 32), classes=10), 64),
}
LAYOUTS = {"channels_last": torch.channels_last, "NCHW": torch.contiguous_format}
TRAINING = ("limit", "weft", "autograd", "per_edge")
INFERENCE = ("limit", "weft", "per_edge", "weft_compiled")
USUAL = ("limit", "weft", "autograd", "per_edge")


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


def captured(run: Callable[[], None]) -> Callable[[], None]:
    """The same work, recorded once and replayed as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def variant(network: Network, name: str, training: bool) -> Network:
    """A copy of the network that runs its stages in the given way; folded in inference."""
    made = copy.deepcopy(network) if training else fold_batch_norm(network)
    if name in ("limit", "per_edge"):
        run = {"limit": limit, "per_edge": per_edge}[name]
        for stage in made.graph_stages:
            stage.forward = run.__get__(stage)  # type: ignore[method-assign]
    if name in ("autograd", "weft_compiled"):
        made.set_executor("autograd")
    if name == "weft_compiled":
        made.compile()
    return made


def step(network: Network, images: Tensor, labels: Tensor, training: bool) -> None:
    """A training step up to the gradients (the optimiser's part is the same for all), or an inference."""
    if training:
        network.zero_grad(set_to_none=True)
        F.cross_entropy(network(images), labels).backward()
    else:
        with torch.no_grad():
            network(images)


def prepared(
    size: str, layout: str, graph: int, batch: int | None = None, device: str = "cpu"
) -> tuple[Network, Tensor, Tensor]:
    """A network with calibrated statistics (without them, denormal numbers slow everything), and a batch."""
    template, usual = SIZES[size]
    network = build_network(template.architecture(WattsStrogatz(k=4, p=0.75), graph), graph).to(device)
    draws = torch.Generator().manual_seed(graph)
    images = torch.randn(batch or usual, *template.image, generator=draws).to(device)
    labels = torch.randint(template.classes, (len(images),), generator=draws).to(device)
    network = network.to(memory_format=LAYOUTS[layout])
    images = images.contiguous(memory_format=LAYOUTS[layout])
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # the statistics of one batch, as they are
    with torch.no_grad():
        network.train()(images)
    for norm in norms:
        norm.momentum = 0.1
    return network, images, labels


def clock(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def interleaved(
    runs: dict[str, Callable[[], None]], rounds: int, seconds: float, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of each variant, one figure a round; the order turns from round to round."""

    def timed(run: Callable[[], None], repeats: int) -> float:
        start = clock(device)
        for _ in range(repeats):
            run()
        return (clock(device) - start) / repeats

    for run in runs.values():
        run()
    repeats = max(1, round(seconds / min(timed(run, 1) for run in runs.values())))
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            times[name].append(timed(runs[name], repeats))
    return times


def measure(
    size: str, layout: str, training: bool, options: argparse.Namespace, batch: int | None = None
) -> list[dict[str, Any]]:
    """One row for each variant: median ratio to the limit, with the range of the graphs' medians."""
    names = [name for name in (TRAINING if training else INFERENCE) if name in options.variants]
    ratios: dict[str, list[list[float]]] = {}
    seconds: dict[str, list[float]] = {}
    for graph in range(options.graphs):
        network, images, labels = prepared(size, layout, graph, batch, options.device)
        runs: dict[str, Callable[[], None]] = {}
        for name in names:
            made = variant(network, name, training)

            def run(made: Network = made, images: Tensor = images, labels: Tensor = labels) -> None:
                step(made, images, labels, training)

            runs[name] = run
            if options.device == "cuda" and name in ("limit", "weft"):
                runs[f"{name}_graph"] = captured(run)
        times = interleaved(runs, options.rounds, options.seconds, options.device)
        for name, taken in times.items():
            pairs = zip(taken, times["limit"], strict=True)
            ratios.setdefault(name, []).append([mine / bound for mine, bound in pairs])
            seconds.setdefault(name, []).extend(taken)
    what = "train" if training else "eval"
    rows = []
    for name, graphs in ratios.items():
        medians = [statistics.median(rounds) for rounds in graphs]
        ratio = statistics.median(itertools.chain.from_iterable(graphs))
        row = {"size": size, "what": what, "layout": layout, "batch": len(images), "variant": name}
        row |= {"ratio": round(ratio, 3), "low": round(min(medians), 3), "high": round(max(medians), 3)}
        rows.append(row | {"ms": round(1000 * statistics.median(seconds[name]), 1)})
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
    """Each variant in a process of its own, with glibc's malloc as it is."""
    environment = {key: value for key, value in os.environ.items() if key not in MALLOC}
    rows: list[dict[str, Any]] = []
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
        output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        row = {"size": size, "what": "memory", "layout": layout, "batch": SIZES[size][1], "variant": name}
        rows.append(row | {"mb": round(float(output), 1)})
    return [row | {"ratio": round(row["mb"] / rows[0]["mb"], 3)} for row in rows]


def arguments() -> argparse.Namespace:
    what = ["train", "eval", "memory"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--what", nargs="+", choices=what, default=what)
    parser.add_argument("--variants", nargs="+", default=USUAL, help="besides the limit")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batches", nargs="+", type=int, help="usual: 8 and 64 on the CPU, 64 256 on cuda")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--graphs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.1, help="least time of a variant in a round")
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
    if options.malloc == "raised" and any(os.environ.get(key) != value for key, value in MALLOC.items()):
        again = [sys.executable, "-m", "benchmarks.randwire", *sys.argv[1:]]
        os.execve(sys.executable, again, os.environ | MALLOC)
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if options.peak:
        print(peak_growth(*options.peak))
        return
    rows: list[dict[str, Any]] = []
    for size, layout, what in itertools.product(options.sizes, options.layouts, options.what):
        if what == "memory" and options.device == "cpu":
            found = memory(size, layout, [name for name in TRAINING if name in options.variants])
        elif what == "memory":
            continue
        else:
            batches = options.batches or ([None] if options.device == "cpu" else [64, 256])
            found = [row for b in batches for row in measure(size, layout, what == "train", options, b)]
        print(*map(line, found), sep="\n", flush=True)
        rows += found
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    if options.record:
        record(rows, options)


def line(row: dict[str, Any]) -> str:
    cost = (
        f"{row['mb']:8.1f} MB" if "mb" in row else f"{row['ms']:8.1f} ms {row['low']:.3f}-{row['high']:.3f}"
    )
    place = f"{row['size']:9} {row['layout']:14} {row['what']:7} {row['batch']:4}"
    return f"{place} {row['variant']:14} {row['ratio']:.3f} {cost}"


def record(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    hardware = torch.cuda.get_device_name() if options.device == "cuda" else processor()
    malloc = {"raised": "raised for all variants", "default": "as they are"}[options.malloc]
    given = [word for word in sys.argv[1:] if word != str(options.json) and not word.startswith("--json")]
    when = datetime.datetime.now(datetime.UTC).date()
    entry = [
        f"\n## {when}: executors of RandWire stages",
        f"\n{hardware}, torch {torch.__version__}, Python {platform.python_version()}; malloc thresholds of "
        f"times {malloc}; commit {code_version()}; `python -m benchmarks.randwire {' '.join(given)}`\n",
        "```\n" + "\n".join(map(line, rows)) + "\n```",
    ]
    with RESULTS.open("a") as file:
        file.write("\n".join(entry) + "\n")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    found = {key.strip(): value.strip() for key, _, value in (one.partition(":") for one in lines)}
    return (
        f"{found.get('model name')} (family {found.get('cpu family')}, model {found.get('model')}), "
        f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, one thread"
    )


if __name__ == "__main__":
    main()
