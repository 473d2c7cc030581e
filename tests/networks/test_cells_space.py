"""Cells in which every link may come from anywhere: how they are drawn and written, what they cost, and the
supernet that holds all of them (NAT spec, checks 11, 16 and 17)."""

import random
from collections import Counter

import pytest
import torch
from scipy import stats

from networks.architecture import Shape
from networks.cells import Cell, Genotype, Link, cell_architecture
from networks.errors import UserError
from networks.genotypes import published
from networks.network import build_network
from networks.spaces.cells import VOCABULARIES, CellsSettings, CellsSpace
from networks.supernet import Supernet, build_supernet

IMAGE = Shape(3, 32, 32)
SMALL = CellsSettings(channels=4, cells=3)
SPACE = CellsSpace(SMALL, IMAGE, 10)


def space(**changes: object) -> CellsSpace:
    return CellsSpace(SMALL.model_copy(update=changes), IMAGE, 10)


# How they are written and drawn ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DARTS_V1", "DARTS_V2", "VGG", "ResBlock", "NAT_DARTS", "R1", "R2"])
def test_genotypes_are_candidates(name: str) -> None:
    given = published(name)
    genes = SPACE.genes_of(given)
    again = SPACE.genotype(genes)
    for before, after in zip(given, again, strict=True):
        assert before.nodes == after.nodes and after.joined == (2, 3, 4, 5)
    assert SPACE.parse(str(given)) == SPACE.parse(given.darts) == SPACE.parse(name) == genes
    assert SPACE.names(genes)["genotype"] == str(again)
    assert [cell.words for cell in SPACE.cells(genes)] == [cell.operations for cell in given]
    assert [cell.ends for cell in SPACE.cells(genes)] == [cell.links.ends for cell in given]


def test_a_name_that_nobody_published_is_refused() -> None:
    with pytest.raises(UserError, match="DARTS_V2"):
        SPACE.parse("DARTS_V3")


def test_five_nodes_and_other_operations() -> None:
    wide = space(nodes=5, operations="nat_loose")
    given = published("ENAS")
    assert wide.genotype(wide.genes_of(given)).normal.nodes == given.normal.nodes
    with pytest.raises(UserError, match="normal: nodes: 5 cannot be used; allowed: 4"):
        SPACE.genes_of(given)
    with pytest.raises(UserError, match=r"nat_loose, nat\+\+"):
        SPACE.genes_of(published("MobileNetV2"))
    with pytest.raises(UserError, match="c1x3"):
        space(nodes=5, operations="nat++").genes_of(published("NAONet"))


def test_sizes() -> None:
    """Check 16: with eight operations, as the release draws."""
    size = 1
    for values in SPACE.kept[:8]:
        present = [option for option in values if option % 9 != 8]
        size *= len(present)
    assert size == 241_591_910_400
    assert SPACE.size == (size * 9**8 // 8**8) ** 2
    five = space(nodes=5)
    present = 1
    for values in five.kept[:10]:
        present *= len([option for option in values if option % 9 != 8])
    assert present == 556_627_761_561_600


def test_draws_are_uniform_over_sources_and_operations() -> None:
    """Check 16, by chi-square."""
    rng = random.Random(0)
    draws = [SPACE.sample(rng) for _ in range(6000)]
    for gene, values in enumerate(SPACE.kept):
        found = Counter(genes[gene] for genes in draws)
        assert stats.chisquare([found[value] for value in values]).pvalue > 1e-4, SPACE.positions[gene]
    never = space(null=False)
    words = {word for _ in range(300) for cell in never.cells(never.sample(rng)) for word in cell.words}
    assert words == set(VOCABULARIES["nat"]) - {"N"}
    assert never.legal(SPACE.genes_of(published("VGG"))), "it is a candidate, though never drawn"


# What they cost ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DARTS_V2", "NAT_DARTS", "R1"])
def test_costs_are_those_of_the_genotype(name: str) -> None:
    """Spec 5.1, by way of the genotype's own network; costs add up."""
    given, settings = published(name), CellsSettings(channels=36, cells=20)
    large = CellsSpace(settings, IMAGE, 10)
    genes = large.genes_of(given)
    alone = cell_architecture(settings, IMAGE, 10, given.normal.graph, given.reduction.graph)
    assert large.decode(genes).complexity() == alone.complexity()


def test_costs_add_up() -> None:
    rng = random.Random(1)
    for _ in range(10):
        genes = SPACE.sample(rng)
        assert SPACE.cost(genes) == SPACE.decode(genes).complexity()
    low, high = SPACE.extremes("params")
    assert low <= SPACE.cost(genes).params <= high


# The supernet ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, 5_997_350),
        ({"nodes": 5, "operations": "nat_loose"}, 20_159_350),
        ({"operations": "nat++"}, 15_024_550),
    ],
)
def test_supernet_sizes(changes: dict[str, object], size: int) -> None:
    """Check 11: both slots of a node share the weights of what comes from one source."""
    whole = CellsSpace(CellsSettings().model_copy(update=changes), IMAGE, 10)
    with torch.device("meta"):
        supernet = Supernet(whole)
    assert sum(one.numel() for one in supernet.parameters()) == size


PARALLEL = Genotype(
    Cell(
        (
            (Link("sep3", 1), Link("S", 1)), (Link("sep3", 0), Link("sep3", 0)),
            (Link("N", 0), Link("c3", 2)), (Link("max3", 3), Link("dil5", 4)),
        ),
        (2, 3, 4, 5),
    ),
    published("DARTS_V2").reduction,
)  # fmt: skip


@pytest.mark.parametrize("genotype", [published("DARTS_V2"), published("VGG"), PARALLEL])
def test_a_path_computes_what_the_network_alone_computes(genotype: Genotype) -> None:
    """Check 17, also where both links of a node come from one source."""
    supernet = build_supernet(SPACE, 0)
    genes = SPACE.genes_of(genotype)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for training in (False, True):
        supernet.train(training)
        alone = supernet.extract(genes).train(training)
        torch.testing.assert_close(supernet(x, genes), alone(x), atol=1e-5, rtol=1e-5)


def test_nothing_comes_through_where_nothing_is() -> None:
    """Check 17: a node without a live link is zero, and so is a cell of such nodes."""
    genes = tuple([8] * 16)  # nothing from node 0, everywhere
    supernet = build_supernet(SPACE, 0).eval()
    seen: list[torch.Tensor] = []
    for stage in supernet.super_stages:
        stage.register_forward_hook(lambda module, given, result: seen.append(result))
    with torch.no_grad():
        supernet(torch.randn(2, 3, 32, 32), genes)
    assert len(seen) == 3 and all(float(one.abs().max()) == 0 for one in seen)


def test_twins_share_their_weights() -> None:
    supernet = build_supernet(SPACE, 0)
    genes = SPACE.genes_of(PARALLEL)
    used = list(supernet.used_modules(genes))
    assert len(used) == len(set(map(id, used)))
    stage = supernet.super_stages[0]
    _, chosen = next(iter(supernet._walk(genes)))
    operations = stage.chosen_operations(chosen)
    assert operations["edge_0_3_0"] is operations["edge_0_3_1"]


def test_what_is_built_is_seeded() -> None:
    genes = SPACE.genes_of(published("DARTS_V2"))
    one, again = (build_network(SPACE.decode(genes), 3).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], again[name]) for name in one)
