"""Folding batch normalisation: the folded copy computes what the network does in eval mode."""

import pytest
import torch
from torch import nn

from networks.architecture import Architecture, Head, Shape, Stage, Stem
from networks.folding import fold_batch_norm
from networks.generators import WattsStrogatz
from networks.graph import Edge, Graph, Node
from networks.network import Network, build_network
from networks.operations import OPERATIONS
from networks.randwire import RandWireTemplate


def settled(network: Network) -> Network:
    """In float64, with normalisations that have seen data and have parameters of their own."""
    network = network.double()
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(1 + 0.3 * torch.randn(module.weight.shape, generator=draws))
                module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=draws))
        for _ in range(3):
            network.train()(images(network, 8))
    return network


# Normalised after the pooling.
POOLED = [f"darts_{kind}_pool_{size}x{size}" for kind in ("max", "avg") for size in (2, 3, 5)]


def images(network: Network, n: int) -> torch.Tensor:
    draws = torch.Generator().manual_seed(2)
    return torch.randn(n, *network.architecture.image, generator=draws, dtype=torch.float64)


def randwire(regime: str) -> Network:
    template = RandWireTemplate(regime=regime, nodes=10, channels=6, classes=5, image=Shape(3, 32, 32))
    return settled(build_network(template.architecture(WattsStrogatz(k=4, p=0.75), 1), 0))


def single(operation: str) -> Network:
    """One node, and one edge behind it, with the operation; a projection before them."""
    nodes = (Node(id=0), Node(id=1, operation=operation), Node(id=2))
    edges = (Edge(source=0, target=1), Edge(source=1, target=2, operation=operation))
    graph = Graph(nodes=nodes, edges=edges, inputs=(0,), output=2)
    stage = Stage(graph=graph, channels=6, stride=2, rule="input")
    architecture = Architecture(
        image=Shape(3, 16, 16),
        classes=3,
        stem=Stem(kind="cifar", channels=4),
        stages=(stage,),
        head=Head(channels=7),
    )
    return settled(build_network(architecture, 0))


def assert_folds(network: Network, left: int = 0) -> None:
    """`left`: normalisations that follow no convolution."""
    folded, x = fold_batch_norm(network), images(network, 5)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            expected = network.eval()(x)
            assert (folded(x) - expected).abs().max() < 1e-10
            assert expected.abs().max() > 1e-3
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == left
    assert all(value.equal(state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("regime", ["small", "regular", "cifar"])
def test_a_folded_network_computes_the_same(regime):
    assert_folds(randwire(regime))


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_every_operation_folds(operation):
    assert_folds(single(operation), left=2 if operation in POOLED else 0)


def test_removed_edges_stay_removed():
    network = randwire("cifar").eval()
    stage = network.graph_stages[0]
    stage.remove([stage.weighted_edges[0]])
    assert_folds(network)
