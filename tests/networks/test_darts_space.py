"""Cells of the DARTS family: which are legal (A10), how they are drawn, and what they cost."""

import random
from collections import Counter
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.utils.flop_counter import FlopCounterMode

from networks.architecture import Shape
from networks.errors import UserError
from networks.network import Network, build_network
from networks.spaces.choices import Kept
from networks.spaces.darts import EDGES, NODES, NONE, OPTIONS, DartsSettings, DartsSpace
from networks.spaces.narrowed import NarrowedSpace, Operator, narrowed, operators
from networks.spaces.paths import has_two_inputs
from networks.spaces.space import Genes

IMAGE = Shape(3, 32, 32)
ONE = DartsSpace(DartsSettings(channels=4, cells=3, regime="cifar"), IMAGE, 10)
TWO = DartsSpace(DartsSettings(channels=4, cells=3, regime="cifar", reduction="own"), IMAGE, 10)
WORDS = [option.word for option in OPTIONS]
SKIP, SEP3 = WORDS.index("skip_connect"), WORDS.index("sep_conv_3x3")

# DARTS's second-order cells as published (1806.09055, figure 4, and the released genotypes): of each node the
# operation and source of its two inputs.
NORMAL = (
    (("sep_conv_3x3", 0), ("sep_conv_3x3", 1)), (("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),
    (("sep_conv_3x3", 1), ("skip_connect", 0)), (("skip_connect", 0), ("dil_conv_3x3", 2)),
)  # fmt: skip
REDUCTION = (
    (("max_pool_3x3", 0), ("max_pool_3x3", 1)), (("skip_connect", 2), ("max_pool_3x3", 1)),
    (("max_pool_3x3", 0), ("skip_connect", 2)), (("skip_connect", 2), ("max_pool_3x3", 1)),
)  # fmt: skip


def genes_of(cell: tuple[tuple[tuple[str, int], ...], ...]) -> Genes:
    chosen = {(source, node): WORDS.index(word) for node, some in zip(NODES, cell, strict=True)
              for word, source in some}  # fmt: skip
    return tuple(chosen.get(edge, NONE) for edge in EDGES)


def two_inputs(genes: Genes) -> bool:
    """By the rule as it is written down in the spec, for each cell."""
    cells = [genes[start : start + len(EDGES)] for start in range(0, len(genes), len(EDGES))]
    return all(
        has_two_inputs(EDGES, [edge for edge, gene in enumerate(cell) if gene == NONE], NODES)
        for cell in cells
    )


@st.composite
def candidates(draw: st.DrawFn) -> Genes:
    """With two operations, so that parts of the space can be listed."""
    genes = [NONE] * len(EDGES)
    for node in NODES:
        for source in draw(st.sets(st.sampled_from(range(node)), min_size=2, max_size=2)):
            genes[EDGES.index((source, node))] = draw(st.sampled_from([SKIP, SEP3]))
    return tuple(genes)


# Which are legal ---------------------------------------------------------------------------------


def test_a10_candidates_are_those_with_two_inputs_each() -> None:
    rng = random.Random(0)
    for space in (ONE, TWO):
        assert all(two_inputs(space.sample(rng)) for _ in range(200))
    for _ in range(2000):
        genes = tuple(rng.choice((NONE, NONE, SKIP, SEP3)) for _ in EDGES)
        assert ONE.legal(genes) == two_inputs(genes)
    some = genes_of(NORMAL)
    assert two_inputs(some) and ONE.legal(some)


def test_sizes() -> None:
    """Of j + 2 edges two are live, with seven operations each: 1, 3, 6 and 10 pairs."""
    assert ONE.size == 1 * 3 * 6 * 10 * 7**8
    assert TWO.size == ONE.size**2 and len(TWO.positions) == 28 and len(ONE.positions) == 14
    assert ONE.kept[:2] == (tuple(range(1, 8)),) * 2, "both inputs of the first node"
    assert all(values == tuple(range(8)) for values in ONE.kept[2:])


@settings(deadline=None, derandomize=True)
@given(kept=st.tuples(*[st.sets(st.sampled_from([NONE, SKIP, SEP3])).map(sorted).map(tuple) for _ in EDGES]))
def test_closing_keeps_what_some_candidate_has(kept: Kept) -> None:
    closed = ONE.closed(kept)
    for node in NODES:
        into = [edge for edge, (_, target) in enumerate(EDGES) if target == node]
        legal = [some for some in product(*(kept[edge] for edge in into)) if into_two(some)]
        for place, edge in enumerate(into):
            assert closed[edge] == tuple(sorted({some[place] for some in legal}))
    if not all(closed):
        with pytest.raises(UserError, match="kept"):
            NarrowedSpace(ONE, closed)


def into_two(genes: tuple[int, ...]) -> bool:
    return sum(gene != NONE for gene in genes) == 2


@settings(deadline=None, derandomize=True)
@given(some=st.lists(candidates(), min_size=1, max_size=2))
def test_what_is_left_is_counted_and_listed(some: list[Genes]) -> None:
    """Of all that two candidates can be crossed to."""
    kept = ONE.closed(tuple(tuple(sorted(set(values))) for values in zip(*some, strict=True)))
    space = NarrowedSpace(ONE, kept)
    found = list(space.enumerate())
    assert len(set(found)) == len(found) == space.size and set(some) <= set(found)
    assert all(two_inputs(genes) for genes in found)
    held = {operator for genes in found for operator in map(Operator._make, enumerate(genes))}
    assert held == set(operators(space)), "every option that is left is some candidate's"
    rng = random.Random(0)
    for genes in (space.sample(rng) for _ in range(5)):
        mutant, child = space.mutate(genes, rng, 0.5), space.crossover(genes, found[0], rng)
        assert {genes, mutant, child} <= set(found)
        near = list(space.neighbours(genes))
        assert len(set(near)) == len(near) and set(near) <= set(found) - {genes}
    for cost in ("params", "macs", "activations"):
        values = [getattr(space.cost(genes), cost) for genes in found]
        assert space.extremes(cost) == (min(values), max(values))


def test_what_cannot_be_closed_closes_the_others() -> None:
    """Two edges into node 5 that keep an input open leave none for the other three."""
    into = [EDGES.index((source, 5)) for source in range(5)]
    space = narrowed(ONE, [Operator(edge, NONE) for edge in into[:2]])
    assert [space.kept[edge] for edge in into[2:]] == [(NONE,)] * 3
    with pytest.raises(UserError, match=r"kept \(0-5\)"):
        narrowed(space, [Operator(into[2], NONE)])


def test_refusals_name_the_edge() -> None:
    genes = list(genes_of(NORMAL))
    third = EDGES.index((2, 4))
    with pytest.raises(UserError, match=r"genes\.7 \(2-4\): 3 .*allowed: 0\.$"):
        ONE.check((*genes[:third], SKIP, *genes[third + 1 :]))
    with pytest.raises(UserError, match="14 genes"):
        ONE.check(tuple(genes[:13]))


def test_draws_are_uniform_over_candidates() -> None:
    into = [edge for edge, (_, target) in enumerate(EDGES) if target == 3]
    few = (NONE, SKIP, SEP3)
    kept = tuple(few if edge in into else values for edge, values in enumerate(ONE.kept))
    rng = random.Random(0)
    drawn = [ONE.draw(kept, rng) for _ in range(6000)]
    seen = Counter(tuple(genes[edge] for edge in into) for genes in drawn)
    assert len(seen) == 12 and stats.chisquare(list(seen.values())).pvalue > 1e-3
    assert ONE.count(kept) == ONE.size * 12 // (3 * 7**2)


def test_neighbours_change_an_operation_or_move_an_input() -> None:
    genes = genes_of(NORMAL)
    near = list(ONE.neighbours(genes))
    # 8 operations have 6 others each; of 1 + 2 + 3 closed edges each takes either input's place, 7 ways.
    assert len(near) == len(set(near)) == 8 * 6 + 6 * 2 * 7
    assert all(two_inputs(other) and other != genes for other in near)


# What they are -----------------------------------------------------------------------------------


def test_a_cell_reads_the_two_before_it_and_is_four_times_as_wide() -> None:
    space = DartsSpace(DartsSettings(), Shape(3, 224, 224), 1000)
    made = space.decode(genes_of(NORMAL))
    shapes = made.stage_shapes()
    assert shapes[:3] == [(48, 56, 56), (48, 28, 28), (192, 28, 28)] and shapes[-1] == (768, 7, 7)
    assert made.entries(1, shapes) == (shapes[0], shapes[1]), (
        "the first cell also reads the stem, twice as large"
    )
    halving = [i for i, stage in enumerate(made.stages) if stage.stride == 2]
    assert halving == [0, 5, 10], "after the reduction: cells 4 and 9 of 14"
    small = DartsSpace(DartsSettings(channels=16, cells=8, regime="cifar"), IMAGE, 10)
    assert [i for i, stage in enumerate(small.template.stages) if stage.stride == 2] == [2, 5]
    assert small.template.stage_shapes()[0] == (48, 32, 32) and small.template.stage_shapes()[-1] == (
        256,
        8,
        8,
    )


def test_costs_of_published_cells() -> None:
    """As the NAT spec counts them (5.1 and 8, check 2). Published networks do not normalise their pooling:
    five pools in each of the two halving cells here."""
    genes = (*genes_of(NORMAL), *genes_of(REDUCTION))
    small = DartsSettings(channels=36, cells=20, regime="cifar", reduction="own")
    cost = DartsSpace(small, IMAGE, 10).cost(genes)
    assert (cost.params - 5 * 2 * (72 + 144), cost.macs) == (3_349_342, 528_359_040)
    large = DartsSpace(DartsSettings(reduction="own"), Shape(3, 224, 224), 1000)
    cost = large.cost(genes)
    assert (cost.params - 5 * 2 * (96 + 192), cost.macs) == (4_718_752, 529_911_552)


def test_costs_add_up() -> None:
    rng = random.Random(1)
    for space in (ONE, TWO):
        for genes in (space.sample(rng) for _ in range(5)):
            made = space.decode(genes)
            with torch.device("meta"):
                network = Network(made)
            assert space.cost(genes) == made.complexity()
            assert space.cost(genes).params == sum(one.numel() for one in network.parameters())
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network.eval()(torch.empty(1, *IMAGE, device="meta"))
            assert counter.get_total_flops() == 2 * space.cost(genes).macs


@pytest.mark.parametrize("side", [8, 9, 30, 31, 32])
def test_images_of_any_size_go_through(side: int) -> None:
    image = Shape(1, side, side)
    space = DartsSpace(DartsSettings(channels=4, cells=6, regime="cifar"), image, 10)
    network = build_network(space.decode(space.sample(random.Random(side))), seed=0)
    network.train()
    logits = network(torch.randn(2, *image))
    assert logits.shape == (2, 10) and bool(logits.isfinite().all())
    assert not torch.equal(logits[0], logits[1])


def test_reduction_cells_have_genes_of_their_own() -> None:
    made = TWO.decode((*genes_of(NORMAL), *genes_of(REDUCTION)))
    assert made.cells["normal"] != made.cells["reduction"]
    assert ONE.decode(genes_of(NORMAL)).cells["reduction"] == made.cells["normal"]
    assert TWO.positions[0] == "normal 0-2" and TWO.positions[-1] == "reduction 4-5"
    assert {gene for site, gene in TWO.sites.items() if site.stage == 1} == set(range(14, 28))
