"""Learned edges for networks that have none, or others: the function stays, edges come where they fit."""

import pytest
import torch

from networks.adjacency import with_graphs
from networks.architecture import Architecture, Shape
from networks.cells import CellSettings, cell_architecture
from networks.counters import counter_generator
from networks.errors import UserError
from networks.generators import WattsStrogatz
from networks.genotypes import published
from networks.graph import single_edge
from networks.learnable import learnable
from networks.network import build_network
from networks.randwire import RandWireTemplate
from networks.standard import standard, standard_topology
from tests.networks.test_topologies import images, randomised

IMAGE = Shape(3, 16, 16)


def randwire() -> Architecture:
    template = RandWireTemplate(regime="cifar", nodes=6, channels=4, head_channels=8, image=IMAGE, classes=10)
    return template.architecture(WattsStrogatz(k=2, p=0.5), 1)


def cells() -> Architecture:
    settings = CellSettings(channels=4, cells=3, regime="cifar")
    genotype = published("DARTS_V2")
    return cell_architecture(settings, IMAGE, 10, genotype.normal.graph, genotype.reduction.graph)


NETWORKS = {
    "randwire": randwire(),
    "cells": cells(),
    "resnet20": standard("resnet20", IMAGE, 10),
    "nodes": standard_topology("resnet20", IMAGE, 10),
    "mobilenet_v2": standard("mobilenet_v2", Shape(3, 32, 32), 10),
}


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("which", ["skips", "all"])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_it_computes_stays(name: str, which: str, complete: bool) -> None:
    """Also with trained sigmoids, and with means of sinks; and each new weight is one that learns."""
    before = NETWORKS[name]
    network = randomised(build_network(before, 0)).eval()
    draws = counter_generator(0, "alpha")
    with torch.no_grad():
        for stage in network.graph_stages:
            stage.edge_values.copy_(torch.randn(stage.edge_values.shape, generator=draws))
    values = [stage.edge_values for stage in network.graph_stages]
    made = learnable(before, which, complete, values)  # type: ignore[arg-type]
    after = build_network(made, 1).double().eval()
    state = network.state_dict() | {k: v for k, v in after.state_dict().items() if "edge_values" in k}
    after.load_state_dict(state)
    x = images(before.image.h)
    torch.testing.assert_close(after(x), network(x), rtol=1e-6, atol=1e-6)  # starts are float32
    (after(x) ** 2).sum().backward()
    moved = [stage.edge_values.grad for stage in after.graph_stages if stage.edge_values.numel()]
    assert moved and all(grad is not None and grad.any() for grad in moved)
    more = sum(len(made.graph(s).edges) - len(before.graph(s).edges) for s in range(len(made.stages)))
    assert (more > 0) == (complete and name != "nodes")  # which are complete
    assert made.complexity()[1:] == before.complexity()[1:]


def test_a_completed_stage_has_every_edge_that_fits() -> None:
    """ResNet-20's blocks as nodes: N = 4 nodes of one shape, N(N-1)/2 edges. RandWire: sources read the input
    alone, and everything after them reads all before it."""
    made = learnable(NETWORKS["nodes"], complete=True)
    first = [edge for edge in made.graph(1).edges if edge.source != 0]
    assert {(edge.source, edge.target) for edge in first} == {
        (i, j) for j in range(2, 5) for i in range(1, j)
    }
    before, after = randwire().graph(0), learnable(randwire(), complete=True).graph(0)
    sources = {edge.target for edge in before.edges if edge.source == 0}
    order = [node for node in after.order if node != 0]
    for late, target in enumerate(order):
        read = {edge.source for edge in after.incoming[target]}
        assert read == ({0} if target in sources else set(order[:late]) - {target}), target


def test_a_network_without_such_edges_is_refused() -> None:
    plain = standard("vgg16", Shape(3, 32, 32), 10)
    with pytest.raises(UserError, match="all edges instead of the skips"):
        learnable(plain)
    weighed = learnable(plain, "all")
    assert all(edge.weight == "real" for edge in weighed.graph(0).edges)
    lone = with_graphs(plain, [single_edge("vgg_conv_3x3") for _ in plain.stages])
    assert len(learnable(lone, "all").graph(0).edges) == 1
