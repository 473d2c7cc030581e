"""What learned edges cost: `python -m benchmarks.topology --help`.

Training steps of one network, interleaved in one process; a figure is the median over rounds of a variant's
time over the residual network's in the same round. One pinned thread, CPU time.

residual   each node's output added to a running sum: what a residual network computes (spec 2.2)
complete   the same function as a complete graph of unit edges
learned    the complete graph, every edge with a weight that is trained
pruned P   learned, less P percent of its edges
"""

import argparse
import os
import statistics
import sys
from collections.abc import Mapping
from functools import partial

import torch

from benchmarks.randwire import MALLOC, interleaved, processor, step
from cluster.version import code_version
from networks.adjacency import prune, with_graphs
from networks.architecture import Architecture, Shape
from networks.graph import Edge, Graph, Node
from networks.network import Network, build_network
from networks.topologies import Complete
from networks.toponet import TopologyTemplate

PRUNED = (25, 50, 75)


def running_sum(nodes: int, operation: str) -> Graph:
    """h_k = h_(k-1) + f_k(h_(k-1)), for N nodes with input and output."""
    inner = nodes - 2
    made = [Node(id=0)]
    edges = []
    total = 0
    for node in range(1, inner + 1):
        sums = inner + node
        made += [Node(id=node, operation=operation), Node(id=sums)]
        edges += [
            Edge(source=total, target=node),
            Edge(source=total, target=sums),
            Edge(source=node, target=sums, slot=1),
        ]
        total = sums
    return Graph(nodes=tuple(made), edges=tuple(edges), inputs=(0,), output=total)


def pruned(architecture: Architecture, percent: int) -> Architecture:
    """Without this part of its edges, drawn from all but the chain, so that every node stays."""
    tensors, generator = {}, torch.Generator().manual_seed(percent)
    for stage in range(len(architecture.stages)):
        edges = architecture.graph(stage).edges
        chain = torch.tensor([edge.target - edge.source == 1 for edge in edges])
        order = torch.rand(len(edges), generator=generator).add(chain).argsort()
        values = torch.ones(len(edges))
        values[order[: round(len(edges) * percent / 100)]] = 0
        tensors[f"stages.{stage}.edge_values"] = values
    return prune(architecture, tensors)[0]


def variants(template: TopologyTemplate) -> dict[str, Architecture]:
    complete = template.architecture(Complete())
    learned = template.architecture(Complete(), weight="real")
    summed = running_sum(template.nodes, template.operation)
    return {
        "residual": with_graphs(complete, [summed] * template.stages),
        "complete": complete,
        "learned": learned,
        **{f"pruned {percent}": pruned(learned, percent) for percent in PRUNED},
    }


def ratios(networks: Mapping[str, Network], batch: int, rounds: int) -> dict[str, list[float]]:
    """Of each variant's time over the first one's, a round each."""
    image = next(iter(networks.values())).architecture.image
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(batch, *image, generator=draws).contiguous(memory_format=torch.channels_last)
    y = torch.arange(batch) % 10
    runs = {name: partial(step, network, x, y, True) for name, network in networks.items()}
    times = interleaved(runs, rounds, 0.1)
    first = next(iter(times.values()))
    return {
        name: [one / other for one, other in zip(some, first, strict=True)] for name, some in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[8, 14])
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    if any(os.environ.get(key) != value for key, value in MALLOC.items()):
        again = [sys.executable, "-m", "benchmarks.topology", *sys.argv[1:]]
        os.execve(sys.executable, again, os.environ | MALLOC)
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(f"commit {code_version()}, {processor()}, torch {torch.__version__}")
    for nodes in options.nodes:
        template = TopologyTemplate(
            nodes=nodes, channels=options.channels, stages=options.stages, image=Shape(3, 32, 32)
        )
        networks = {
            name: build_network(architecture, 0).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
            for name, architecture in variants(template).items()
        }
        print(f"\nN = {nodes}, C = {options.channels}, {options.stages} stages, batch {options.batch}")
        for name, values in ratios(networks, options.batch, options.rounds).items():
            made = networks[name].architecture
            edges = sum(len(made.graph(stage).edges) for stage in range(options.stages))
            spread = f"{min(values):.3f} to {max(values):.3f}"
            print(f"{name:12} {edges:4} edges  {statistics.median(values):.3f}  ({spread})", flush=True)


if __name__ == "__main__":
    main()
