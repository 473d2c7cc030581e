"""Cells in which every link may come from anywhere: how they are drawn and written, what they cost, and the
supernet that holds all of them (NAT spec, checks 11, 16 and 17)."""

import random
from collections import Counter

import pytest
import torch
from pydantic import ValidationError
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


BOTH = space(outputs=((2, 3, 4, 5), (5,)))  # what DARTS joins, and what the hand-crafted cells do
HAND = space(outputs=((5,),))


# How they are written and drawn ------------------------------------------------------------------


@pytest.mark.parametrize("some", [SPACE, BOTH, HAND])
@pytest.mark.parametrize("name", ["DARTS_V1", "DARTS_V2", "VGG", "ResBlock", "NAT_DARTS", "R1", "R2"])
def test_genotypes_are_candidates(name: str, some: CellsSpace) -> None:
    given = published(name)
    if not {one.joined for one in given} <= set(some.settings.joins):
        with pytest.raises(UserError, match=r"normal: out: \[.*space.outputs=.* has it too"):
            some.genes_of(given)
        return
    genes = some.genes_of(given)
    again = some.genotype(genes)
    assert again == given
    assert some.parse(str(given)) == some.parse(given.darts) == some.parse(name) == genes
    assert some.names(genes)["genotype"] == str(again)
    assert [cell.words for cell in some.cells(genes)] == [cell.operations for cell in given]
    assert [cell.ends for cell in some.cells(genes)] == [cell.links.ends for cell in given]


def test_a_name_that_nobody_published_is_refused() -> None:
    with pytest.raises(UserError, match="DARTS_V2"):
        SPACE.parse("DARTS_V3")


def test_five_nodes_and_other_operations() -> None:
    wide = space(nodes=5, operations="nat_loose")
    given = published("ENAS")
    with pytest.raises(UserError, match="reduction: out"):
        wide.genes_of(given)
    loose = space(nodes=5, operations="nat_loose", outputs=((2, 3, 4, 5, 6), (2, 3, 6)))
    assert loose.genotype(loose.genes_of(given)) == given
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
    hand = space(null=False, outputs=((5,),))
    assert hand.legal(hand.genes_of(published("VGG"))), "it is a candidate, though never drawn"


@pytest.mark.parametrize(
    "outputs", [[[2, 3]], [[5, 4]], [[5, 5]], [[1, 5]], [[6]], [[]], [[5], [5]]], ids=str
)
def test_outputs_that_no_cell_has(outputs: list[list[int]]) -> None:
    with pytest.raises(ValidationError, match=r"outputs.*nodes of 2 to 5, ascending, the last among them"):
        CellsSettings.model_validate({"outputs": outputs})


# What they cost ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DARTS_V2", "NAT_DARTS", "R1", "VGG", "ResBlock", "NAT_VGG"])
def test_costs_are_those_of_the_genotype(name: str) -> None:
    """Spec 5.1, by way of the genotype's own network."""
    given = published(name)
    settings = CellsSettings(channels=36, cells=20, outputs=BOTH.settings.joins)
    large = CellsSpace(settings, IMAGE, 10)
    genes = large.genes_of(given)
    alone = cell_architecture(settings, IMAGE, 10, given.normal.graph, given.reduction.graph)
    assert large.cost(genes) == large.decode(genes).complexity() == alone.complexity()


@pytest.mark.parametrize("some", [SPACE, BOTH, HAND])
def test_costs_add_up(some: CellsSpace) -> None:
    rng = random.Random(1)
    for _ in range(10):
        genes = some.sample(rng)
        assert some.cost(genes) == some.decode(genes).complexity()
    low, high = some.extremes("params")
    assert low <= some.cost(genes).params <= high


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


@pytest.mark.parametrize(
    ("some", "genotype"),
    [
        (SPACE, published("DARTS_V2")), (SPACE, PARALLEL), (HAND, published("VGG")),
        (BOTH, published("DARTS_V2")), (BOTH, published("ResBlock")),
        (BOTH, Genotype(published("DARTS_V2").normal, published("ResBlock").reduction)),
        (BOTH, Genotype(published("VGG").normal, published("R1").reduction)),
    ],
)  # fmt: skip
def test_a_path_computes_what_the_network_alone_computes(some: CellsSpace, genotype: Genotype) -> None:
    """Check 17, also where both links of a node come from one source, and where a cell joins but some nodes:
    then the network alone is narrower, and has the weights that read what is there."""
    supernet = build_supernet(some, 0)
    genes = some.genes_of(genotype)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for training in (False, True):
        supernet.train(training)
        alone = supernet.extract(genes).train(training)
        torch.testing.assert_close(supernet(x, genes), alone(x), atol=1e-6, rtol=0)


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
