"""Networks of yours as spaces: what may become of their links, what that costs, and their supernets."""

import random
from typing import Any

import pytest
import torch

from networks.architecture import Architecture, Shape
from networks.cells import CellSettings, cell_architecture
from networks.errors import UserError
from networks.generators import WattsStrogatz
from networks.genotypes import published
from networks.graph import Edge, Graph, Node
from networks.network import build_network
from networks.randwire import RandWireTemplate
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space
from networks.spaces.rewired import NetworkSettings, RewiredSpace, bridges, hooked
from networks.supernet import build_supernet
from searchers.rewriting import Rewriting

IMAGE = Shape(3, 16, 16)


def randwire(**changes: Any) -> Architecture:
    template = RandWireTemplate(
        regime="cifar", nodes=8, channels=4, head_channels=16, image=IMAGE, classes=10, **changes
    )
    return template.architecture(WattsStrogatz(k=4, p=0.75), 1)


def darts() -> Architecture:
    genotype, settings = published("DARTS_V2"), CellSettings(channels=4, cells=3, regime="cifar")
    return cell_architecture(settings, IMAGE, 10, genotype.normal.graph, genotype.reduction.graph)


def cell() -> Architecture:
    space = NasBench201Space(NasBench201Settings(channels=4, cells=2), IMAGE, 10)
    return space.decode((3, 1, 2, 0, 4, 3))


def space(architecture: Architecture, **changes: Any) -> RewiredSpace:
    return RewiredSpace(NetworkSettings(architecture=architecture, **changes), IMAGE, 10)


GIVEN = {"randwire": randwire(), "darts": darts(), "nasbench201": cell()}


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("hooks", [0, 2])
def test_the_given_network_is_the_first_candidate(name: str, hooks: int) -> None:
    """It costs and computes what it did before it had hooks."""
    given = GIVEN[name]
    some = space(given, hooks=hooks)
    genes = some.parse("given")
    again = some.decode(genes)
    assert again.complexity() == given.complexity() == some.cost(genes)
    assert genes == (0,) * len(some.places) and some.names(genes)
    x = torch.randn(2, *IMAGE, generator=torch.Generator().manual_seed(0))
    one, two = (build_network(made, 3) for made in (given, again))
    two.load_state_dict(one.state_dict())
    torch.testing.assert_close(one(x), two(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("operations", ["own", "nat++"])
def test_costs_add_up_and_supernets_hold_every_candidate(name: str, operations: str) -> None:
    some = space(GIVEN[name], hooks=1, operations=operations)
    supernet = build_supernet(some, 0)
    rng = random.Random(0)
    x = torch.randn(2, *IMAGE, generator=torch.Generator().manual_seed(0))
    for genes in [some.parse("given"), *(some.sample(rng) for _ in range(6))]:
        made = some.decode(genes)
        assert some.cost(genes) == made.complexity()
        alone = supernet.extract(genes)
        assert sum(one.numel() for one in alone.parameters()) == made.complexity().params
        torch.testing.assert_close(supernet(x, genes), alone(x), atol=1e-5, rtol=1e-4)


def test_links_of_a_randwire_network() -> None:
    """Links between computing nodes are S; into each node as many hooks as asked for; a link weighs one."""
    given = GIVEN["randwire"]
    plain, some = space(given, hooks=0), space(given, hooks=2)
    searched = [
        edge
        for position in range(len(given.stages))
        for graph in [given.graph(position)]
        for edge in graph.edges
        if edge.source not in graph.inputs and edge.target != graph.output
    ]
    assert len(plain.places) == len(searched)
    assert all([one.word for one in place.options] in (["S", "N"], ["S"]) for place in plain.places)
    added = [place for place in some.places if place.edge.operation == "none"]
    assert added and all([one.word for one in place.options] == ["N", "S"] for place in added)
    zeros = (0,) * len(some.places)
    weighed = {(n, edge.target) for n in range(3) for edge in given.graph(n).edges if edge.weight != "none"}
    for one, place in enumerate(some.places):
        if place.edge.operation == "none":
            with_it = (*zeros[:one], 1, *zeros[one + 1 :])
            costs = some.cost(with_it).params - some.cost(zeros).params
            assert costs == ((place.graph, place.edge.target) in weighed)
            assert some.edit(zeros, with_it) == f"{some.positions[one]}: N to S"


def test_hooks_come_from_the_nearest_nodes() -> None:
    edges = tuple(Edge(source=a, target=a + 1, operation="triplet_conv_3x3") for a in range(4))
    chain = Graph(nodes=tuple(Node(id=n) for n in range(5)), edges=edges, inputs=(0,), output=4)
    found = [(edge.source, edge.target) for edge in hooked(chain, "edges_from_inputs", 2).edges[4:]]
    assert found == [(0, 2), (1, 3), (0, 3), (2, 4), (1, 4)]
    assert [(e.source, e.target) for e in hooked(chain, "sources", 1).edges[4:]] == [(1, 3), (2, 4)]
    assert hooked(chain, "input", 0) == chain and len(hooked(chain, "input", 1).edges) == 7
    assert bridges(chain) == frozenset(edges)
    assert not bridges(hooked(chain, "input", 2)) - frozenset(edges)


def test_a_link_that_all_depends_on_cannot_go() -> None:
    some = space(GIVEN["nasbench201"], hooks=0)
    alone = [place for place in some.places if "N" not in [one.word for one in place.options]]
    assert not alone, "three ways lead through that cell"
    thin = NasBench201Space(NasBench201Settings(channels=4, cells=1), IMAGE, 10).decode((3, 0, 0, 0, 3, 0))
    cut = space(thin, hooks=0)
    stay = [place.edge for place in cut.places if "N" not in [one.word for one in place.options]]
    assert [(edge.source, edge.target) for edge in stay] == [(0, 1), (1, 3)], "the only way"


def test_cells_are_rewritten_wherever_they_stand() -> None:
    """A named cell's gene rules every stage that has it."""
    some = space(GIVEN["nasbench201"], hooks=0)
    cell = [gene for gene, place in enumerate(some.places) if place.graph == "cell"]
    stages = {site.stage for site, gene in some.sites.items() if gene in cell}
    assert len(cell) == 6 and len(stages) == 6
    assert sum(gene in cell for gene in some.sites.values()) == 6 * len(stages)


@pytest.mark.parametrize("name", GIVEN)
def test_what_a_policy_sees_and_does(name: str) -> None:
    some = space(GIVEN[name], hooks=1)
    rewriting = Rewriting(some, "nat", strict=True)
    genes = some.parse("given")
    (links,) = some.cells(genes)
    assert len(links.words) == len(links.ends) == len(some.places)
    legal = rewriting.legal([genes])
    rng = random.Random(1)
    for _ in range(20):
        actions = [rng.choice(row.nonzero()[0].tolist()) for row in legal[0]]
        after = rewriting.after(genes, actions)
        cheaper, before = some.cost(after), some.cost(genes)
        if name != "randwire":  # there a link that is added weighs a parameter
            assert cheaper.params <= before.params and cheaper.macs <= before.macs


def test_what_is_no_such_network() -> None:
    with pytest.raises(UserError, match=r"architecture\.image.*\[3, 16, 16\]"):
        RewiredSpace(NetworkSettings(architecture=randwire()), Shape(3, 8, 8), 10)
    with pytest.raises(UserError, match=r"architecture\.classes"):
        RewiredSpace(NetworkSettings(architecture=randwire()), IMAGE, 5)
    with pytest.raises(UserError, match="given"):
        space(GIVEN["darts"]).parse("DARTS_V2")


def test_random_candidates_keep_links() -> None:
    rng = random.Random(0)
    for keep, low, high in ((0.0, 0.4, 0.6), (0.8, 0.85, 0.95)):
        some = space(GIVEN["randwire"], hooks=1, keep=keep)
        free = [gene for gene, options in enumerate(some.options) if len(options) == 2]
        draws = [some.sample(rng) for _ in range(200)]
        share = sum(genes[gene] == 0 for genes in draws for gene in free) / (200 * len(free))
        assert low < share < high
