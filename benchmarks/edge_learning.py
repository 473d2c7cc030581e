"""Small experiments on learned edges: `python -m benchmarks.edge_learning --help`.

Checks T14, T15 and T17 of the TopoNet spec (2.9). Each is a function of a seed; what all seeds came to is
written to docs/edge_learning.json, which tests/trainers/test_edge_learning.py holds new runs to.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.randwire import processor
from cluster.version import code_version
from networks.architecture import Shape
from networks.counters import counter_generator, counter_random
from networks.network import build_network
from networks.topologies import Complete, Pair
from networks.toponet import TopologyTemplate
from trainers.data import DataSettings, open_data
from trainers.topology import EdgeLearning, EdgeSettings
from trainers.training import Trainer, TrainingSettings

FILE = Path(__file__).parent.parent / "docs" / "edge_learning.json"
SEEDS = (0, 1, 2, 3, 4)
STRENGTHS = (0.0, 1e-4, 1e-3, 1e-2)  # T14's


def edges_of(strength: float, penalty: str = "adaptive", rate: float = 1.0) -> EdgeSettings:
    kind = penalty if strength else "none"
    return EdgeSettings.model_validate({"penalty": kind, "strength": strength, "rate": rate})


# T14: sparsity grows with lambda ------------------------------------------------------------------


def trained(seed: int, edges: EdgeSettings, epochs: int) -> Trainer:
    """A complete graph of 8 nodes on the digits of scikit-learn."""
    data = open_data(DataSettings(limit=600))
    template = TopologyTemplate(nodes=8, stages=1, channels=6, image=data.image, classes=len(data.classes))
    network = build_network(template.architecture(Complete(), weight="real"), seed)
    settings = TrainingSettings(epochs=epochs, batch_size=32, lr=0.1, edges=edges)
    trainer = Trainer(network, data, settings, seed)
    trainer.train_steps(trainer.total_steps)
    return trainer


def sparsities(seed: int) -> list[float]:
    """Which part of the weights is no larger than 0.01, for each lambda; edges learn ten times as fast as the
    rest, so that a toy run is long enough to bring them down."""
    found = []
    for strength in STRENGTHS:
        trainer = trained(seed, edges_of(strength, rate=10.0), epochs=16)
        assert trainer.edges is not None
        found.append(trainer.edges.sparsity())
    return found


# T15: a planted topology is found -----------------------------------------------------------------


def planted(seed: int, nodes: int = 8, steps: int = 1000) -> float:
    """AUC of |alpha| against the edges of a drawn sub-graph, whose output on noise is the target; operations
    are fixed, edges are learned on the complete graph with a proximal step of a uniform penalty."""
    template = TopologyTemplate(nodes=nodes, stages=1, channels=4, image=Shape(3, 6, 6))
    network = build_network(template.architecture(Complete(), weight="real"), seed).eval()
    (stage,) = network.graph_stages
    pairs = [(edge.source, edge.target) for edge in stage.graph.edges]
    truth = torch.tensor(drawn_edges(seed, nodes, pairs))
    stage.requires_grad_(False)
    values = stage.edge_values.requires_grad_(True)
    draws = counter_generator(seed, "x")
    x = torch.randn(512, 4, 6, 6, generator=draws)
    with torch.no_grad():
        values.copy_(truth.float())
        for module in stage.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # statistics of these images, as they are
        stage.train()(x)
        y = stage.eval()(x)
        values.fill_(1.0)
    learning = EdgeLearning(network, edges_of(0.002, "uniform"))
    optimizer = torch.optim.SGD([values], lr=0.05, momentum=0.9)
    for _ in range(steps):
        chosen = torch.randint(len(x), (64,), generator=draws)
        loss = ((stage(x[chosen]) - y[chosen]) ** 2).mean() / y.var()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([values], 1.0)
        optimizer.step()
        learning.shrink(0.05)
    return area(values.detach().abs(), truth)


def drawn_edges(seed: int, nodes: int, pairs: Sequence[Pair]) -> list[bool]:
    """Each edge with probability 0.4, again until every node is read and reads."""
    rng = counter_random(seed, "planted")
    while True:
        chosen = [rng.random() < 0.4 for _ in pairs]
        kept = [pair for pair, there in zip(pairs, chosen, strict=True) if there]
        if {target for _, target in kept} == set(range(1, nodes)) and {source for source, _ in kept} == set(
            range(nodes - 1)
        ):
            return chosen


def area(scores: Tensor, truth: Tensor) -> float:
    """AUC: how often a true edge scores above one that is not; ties count half."""
    true, other = scores[truth][:, None], scores[~truth][None]
    return float(((true > other).double() + 0.5 * (true == other).double()).mean())


# T17: nodes without any edge ----------------------------------------------------------------------


def starved(seed: int, penalty: str) -> int:
    """How many nodes end a long run without an edge into them above the threshold."""
    trainer = trained(seed, edges_of(0.02, penalty, rate=10.0), epochs=40)
    assert trainer.edges is not None
    (stage,) = trainer.network.graph_stages
    strong = {
        edge.target
        for edge, value in zip(stage.graph.edges, stage.edge_values.tolist(), strict=True)
        if abs(value) > trainer.edges.settings.threshold
    }
    return len(stage.graph.nodes) - 1 - len(strong)


def outcome(seeds: Sequence[int]) -> dict[str, Any]:
    """All three, JSON-ready."""
    return {
        "sparsity": {str(seed): sparsities(seed) for seed in seeds},
        "planted": {str(seed): planted(seed) for seed in seeds},
        "starved": {
            penalty: {str(seed): starved(seed, penalty) for seed in seeds}
            for penalty in ("uniform", "adaptive")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.parse_args()
    torch.set_num_threads(1)
    found = outcome(SEEDS)
    about = {"commit": code_version(), "hardware": processor(), "strengths": STRENGTHS}
    FILE.write_text(json.dumps({**about, **found}, indent=1) + "\n")
    means = [statistics.fmean(of_strength) for of_strength in zip(*found["sparsity"].values(), strict=True)]
    print("sparsity by lambda:", dict(zip(STRENGTHS, means, strict=True)))
    print("planted, AUC:", found["planted"])
    print("nodes that starve:", found["starved"])


if __name__ == "__main__":
    main()
