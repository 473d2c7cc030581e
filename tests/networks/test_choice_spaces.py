"""Spaces whose genes choose operations: NAS-Bench-201, SPOS's chain and the small chain.

Figures are those of the one-shot spec, sections 1 (S1 to S4) and 7 (cost formulas, N1 to N9).
"""

import csv
import random
from collections import defaultdict
from itertools import pairwise, product

import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from networks.architecture import Architecture, Shape
from networks.counters import counter_generator
from networks.errors import UserError
from networks.network import Network, build_network
from networks.plan import edge_key
from networks.spaces.cells import CellsSettings, CellsSpace
from networks.spaces.chain import ShuffleNetSettings, ShuffleNetSpace, SmallChainSettings, SmallChainSpace
from networks.spaces.choices import ChoiceSpace, Option
from networks.spaces.darts import DartsSettings, DartsSpace
from networks.spaces.mobilenet import IDENTITY, MobileNetSettings, MobileNetSpace
from networks.spaces.narrowed import Operator, narrowed
from networks.spaces.nasbench201 import (
    EDGES,
    PATHS,
    WORDS,
    NasBench201Settings,
    NasBench201Space,
    cell_genes,
    cell_string,
    live_paths,
)
from networks.spaces.rewired import NetworkSettings, RewiredSpace
from networks.spaces.space import Genes
from tests.networks.refusals import refused
from tests.trainers.test_data_files import real

IMAGE = Shape(3, 32, 32)
CELLS = NasBench201Space(NasBench201Settings(channels=4, cells=1), IMAGE, 10)
CHAIN = SmallChainSpace(SmallChainSettings(channels=4, head_channels=16), IMAGE, 10)
SHUFFLE = ShuffleNetSpace(
    ShuffleNetSettings(channels=(8, 16, 32), repeats=(2, 2), head_channels=32), IMAGE, 10
)
MOBILE = MobileNetSpace(
    MobileNetSettings(channels=(8, 4, 8, 12), repeats=(3, 1), strides=(2, 1), head_channels=16),
    IMAGE, 10,
)  # fmt: skip
DARTS = DartsSpace(DartsSettings(channels=4, cells=3, regime="cifar"), IMAGE, 10)
INDEPENDENT: list[ChoiceSpace] = [CELLS, CHAIN, SHUFFLE, MOBILE]  # small, and each gene by itself
ANY_CELLS = CellsSpace(CellsSettings(channels=4, cells=3), IMAGE, 10)
JOINING = CellsSpace(CellsSettings(channels=4, cells=3, nodes=2, outputs=((2, 3), (3,))), IMAGE, 10)
NETWORK = RewiredSpace(NetworkSettings(architecture=CELLS.decode((3, 1, 2, 0, 4, 3)), hooks=2), IMAGE, 10)
over_spaces = pytest.mark.parametrize(
    "space", [*INDEPENDENT, DARTS, ANY_CELLS, JOINING, NETWORK], ids=lambda space: space.kind
)
over_independent = pytest.mark.parametrize("space", INDEPENDENT, ids=lambda space: space.kind)


def drawn(space: ChoiceSpace, count: int, seed: int = 0) -> list[Genes]:
    rng = random.Random(seed)
    return [space.sample(rng) for _ in range(count)]


def on_meta(architecture: Architecture) -> Network:
    with torch.device("meta"):
        return Network(architecture)


def numbers(parameters: object) -> int:
    return sum(parameter.numel() for parameter in parameters)  # type: ignore[attr-defined]


# S1 to S4: SPOS's chain at its released size -----------------------------------------------------

SPOS = ShuffleNetSpace(ShuffleNetSettings(), Shape(3, 224, 224), 1000)
SEARCHED = (2, 1, 0, 1, 2, 0, 2, 0, 2, 0, 2, 3, 0, 0, 0, 0, 3, 2, 3, 3)


@pytest.mark.parametrize(
    ("genes", "macs", "affine", "plain"),
    [
        (SEARCHED, 322_918_720, 3_558_464, 3_529_312),
        ((0,) * 20, 295_842_496, 3_154_880, None),
        ((2,) * 20, 340_373_696, 3_297_600, None),
    ],
    ids=["S1 S2", "S3 S4 all 0", "S3 S4 all 2"],
)
def test_counts_of_spos(genes: Genes, macs: int, affine: int, plain: int | None) -> None:
    """By adding up, from the architecture, and from the modules; without BN's parameters too (S2)."""
    assert SPOS.cost(genes) == SPOS.decode(genes).complexity()
    assert SPOS.cost(genes)[:2] == (affine, macs)
    network = on_meta(SPOS.decode(genes))
    assert numbers(network.parameters()) == affine
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if plain is not None:
        assert affine - sum(numbers(norm.parameters()) for norm in norms) == plain
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.empty(1, *SPOS.image, device="meta"))
    assert counter.get_total_flops() == 2 * macs


def test_the_released_chain() -> None:
    assert SPOS.size == 4**20 and len(SPOS.positions) == 20
    smallest, largest = SPOS.extremes("macs")
    assert smallest <= 295_842_496 and largest >= 340_373_696


# NAS-Bench-201: costs ----------------------------------------------------------------------------

C10 = NasBench201Space(NasBench201Settings(), Shape(3, 32, 32), 10)
C100 = NasBench201Space(NasBench201Settings(), Shape(3, 32, 32), 100)
IN16 = NasBench201Space(NasBench201Settings(), Shape(3, 16, 16), 120)


def counted(space: NasBench201Space, genes: Genes) -> tuple[int, int]:
    """Params and FLOPs as the benchmark counts them: the linear layer's bias is work."""
    cost = space.cost(genes)
    return cost.params, cost.macs + space.classes


def formulas(n3: int, n1: int) -> list[tuple[int, int]]:
    params = 73_306 + 243_040 * n3 + 28_000 * n1
    flops = 7_783_050 + 35_389_440 * n3 + 3_932_160 * n1
    return [
        (params, flops),
        (params + 5_850, flops + 5_850),
        (params + 7_150, (flops - 650) // 4 + 7_800),
    ]


def test_cost_formulas_of_the_benchmark() -> None:
    for n3, n1 in product(range(7), repeat=2):
        if n3 + n1 <= 6:
            genes = (3,) * n3 + (2,) * n1 + (1,) * (6 - n3 - n1)
            assert [counted(space, genes) for space in (C10, C100, IN16)] == formulas(n3, n1)


ROWS = {
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|": [
        (129_306, 15_647_370), (135_156, 15_653_220), (136_456, 3_919_480),
    ],
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|": [
        (802_426, 113_951_370), (808_276, 113_957_220), (809_576, 28_495_480),
    ],
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|": [
        (1_073_466, 153_272_970), (1_079_316, 153_278_820), (1_080_616, 38_325_880),
    ],
    "|skip_connect~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|nor_conv_3x3~0|nor_conv_1x1~1|nor_conv_3x3~2|": [
        (858_426, 121_815_690), (864_276, 121_821_540), (865_576, 30_461_560),
    ],
    cell_string((3,) * 6): [
        (1_531_546, 220_119_690), (1_537_396, 220_125_540), (1_538_696, 55_037_560),
    ],
    cell_string((1,) * 6): [(73_306, 7_783_050), (79_156, 7_788_900), (80_456, 1_953_400)],
    cell_string((0,) * 6): [(73_306, 7_783_050), (79_156, 7_788_900), (80_456, 1_953_400)],
}  # fmt: skip


@pytest.mark.parametrize("text", ROWS, ids=[str(cell_genes(text)) for text in ROWS])
def test_costs_of_known_cells(text: str) -> None:
    genes = cell_genes(text)
    assert [counted(space, genes) for space in (C10, C100, IN16)] == ROWS[text]
    assert numbers(on_meta(C10.decode(genes)).parameters()) == ROWS[text][0][0]
    assert C10.names(genes)["cell"] == text


def test_the_extremes_of_the_benchmark() -> None:
    assert C10.extremes("params") == (73_306, 1_531_546)
    assert C10.extremes("macs") == (7_783_040, 220_119_680)


def test_costs_of_all_cells_in_the_table() -> None:
    """The table counts no biases, and lacks the multiply-adds of CIFAR-100."""
    with real("nasbench201.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    seen = set()
    for row in rows:
        genes = cell_genes(row["arch"])
        seen.add(genes)
        n3, n1 = genes.count(3), genes.count(2)
        found = C10.cost(genes)
        assert found[:2] == (int(row["params_c10"]), int(row["flops_c10"]))
        (_, flops), (params_c100, _), (params_in16, flops_in16) = formulas(n3, n1)
        assert int(row["flops_c10"]) == flops - 10
        assert int(row["params_c100"]) == params_c100
        assert (int(row["params_in16"]), int(row["flops_in16"])) == (params_in16, flops_in16 - 120)
    assert len(rows) == len(seen) == 15_625


# NAS-Bench-201: counts ---------------------------------------------------------------------------


def canonical(genes: Genes) -> str:
    """N2: none -> '#' (and so what only reads '#'), skip -> its source's string, children sorted."""
    nodes = {0: "0"}
    for node in (1, 2, 3):
        children = []
        for (source, target), gene in zip(EDGES, genes, strict=True):
            if target == node:
                children.append(term(nodes[source], gene))
        nodes[node] = "+".join(sorted(children))
    return nodes[3]


def term(source: str, gene: int) -> str:
    word = WORDS[gene]
    if word == "none" or source == "#":
        return "#"
    return source if word == "skip_connect" else f"({source})@{word}"


def test_n1_n2_n6_n7_n8() -> None:
    everything = list(CELLS.enumerate())
    assert CELLS.size == len(everything) == len(set(everything)) == 15_625
    assert len({canonical(genes) for genes in everything}) == 6_466
    alive = sum(any(live_paths(genes)) for genes in everything)
    assert (alive, len(everything) - alive) == (15_284, 341)
    assert len({counted(C10, genes) for genes in everything}) == 28
    assert all(cell_genes(cell_string(genes)) == genes for genes in everything)
    assert len({cell_string(genes) for genes in everything}) == 15_625


def test_live_paths_are_those_without_none() -> None:
    assert list(live_paths((1,) * 6)) == list(PATHS) == [(3,), (1, 5), (0, 2, 5), (0, 4)]
    assert list(live_paths((0,) * 6)) == []
    assert list(live_paths((1, 0, 1, 0, 0, 1))) == [(0, 2, 5)]
    for edges in PATHS:
        steps = [EDGES[edge] for edge in edges]
        assert steps[0][0] == 0 and steps[-1][1] == 3
        assert all(one[1] == two[0] for one, two in pairwise(steps))


def unfolded(genes: Genes, seed: int) -> Network:
    """The network of a cell whose convolutions' weights are functions of the term that each computes."""
    network = build_network(CELLS.decode(genes), seed=0)
    nodes = {0: "0"}
    for node in (1, 2, 3):
        arriving = [(i, source) for i, (source, target) in enumerate(EDGES) if target == node]
        nodes[node] = "+".join(sorted(term(nodes[source], genes[i]) for i, source in arriving))
    for number, stage in enumerate(network.graph_stages):
        if CELLS.template.stages[number].graph != "cell":
            continue
        for position, edge in enumerate(stage.graph.edges):
            if genes[position] in (2, 3):
                weight = stage.operations[edge_key(edge)].body[0].weight  # type: ignore[index, union-attr]
                name = term(nodes[edge.source], genes[position])
                draws = counter_generator(seed, number, name)
                with torch.no_grad():
                    weight.copy_(torch.randn(weight.shape, generator=draws) * 0.2)
    with torch.no_grad():
        network.head.classifier.weight.mul_(10)
    return network


def test_n9_equal_strings_compute_the_same() -> None:
    """Where the matching terms carry the same weights; also where one node is two separate convolutions."""
    groups = defaultdict(list)
    for genes in CELLS.enumerate():
        if any(live_paths(genes)):
            groups[canonical(genes)].append(genes)
    rng = random.Random(0)
    several = [group for group in groups.values() if len(group) > 1]
    pairs = [tuple(rng.sample(group, 2)) for group in rng.sample(several, 8)]
    # Unfolding ignores sharing: what one cell computes once, the other computes twice.
    reused = [
        (one, two)
        for group in several
        for one in group
        for two in group
        if one.count(3) + one.count(2) < two.count(3) + two.count(2)
    ]
    pairs += rng.sample(reused, 4)
    assert reused
    x = torch.randn(4, 3, 8, 8, generator=counter_generator(0, "x"))
    for one, two in pairs:
        for training in (False, True):
            with torch.no_grad():
                first = unfolded(one, 5).train(training)(x)
                torch.testing.assert_close(unfolded(two, 5).train(training)(x), first, atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        assert not torch.allclose(unfolded((3,) * 6, 5)(x), unfolded((3,) * 6, 6)(x), atol=1e-3)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (cell_string((3,) * 6).replace("nor_conv_3x3~2", "nor_conv_3x4~2"), "Did you mean 'nor_conv_3x3'?"),
        (cell_string((1,) * 6).replace("skip_connect~0|+|", "skip_conect~0|+|", 1), "'skip_connect'"),
        (cell_string((4,) * 6).replace("avg_pool_3x3~1|+", "avg_pol_3x3~1|+"), "'avg_pool_3x3'"),
        (cell_string((0,) * 6).replace("none~2", "None~2"), "'none'"),
        (cell_string((3,) * 6).replace("nor_conv_1x1", "max_pool").replace("~2", "~1"), "a cell such as"),
        (cell_string((3,) * 6)[:-1], "a cell such as"),
        (cell_string((3,) * 6) + " ", "a cell such as"),
        ("|nor_conv_3x3~0|", "a cell such as"),
        ("", "a cell such as"),
    ],
)
def test_bad_cells_are_refused(text: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        cell_genes(text)
    assert caught.value.field == "cell" and caught.value.value == text
    assert hint in str(caught.value)


# What every space of choices promises ------------------------------------------------------------


@over_spaces
def test_costs_are_what_torch_counts(space: ChoiceSpace) -> None:
    for genes in drawn(space, 8):
        architecture = space.decode(genes)
        cost = space.cost(genes)
        assert cost == architecture.complexity()
        network = on_meta(architecture).eval()
        assert cost.params == numbers(network.parameters())
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, *architecture.image, device="meta"))
        if space in (JOINING, NETWORK):  # where of some candidates something is read by nobody, and not run
            assert 0 < counter.get_total_flops() <= 2 * cost.macs
        else:
            assert counter.get_total_flops() == 2 * space.cost(read(space, genes)).macs


def read(space: ChoiceSpace, genes: Genes) -> Genes:
    """The genes less the operations whose result nothing reads: published costs count them, torch does not
    run them."""
    if not isinstance(space, NasBench201Space):
        return genes
    reach = {3}
    for node in (2, 1):
        if any(genes[i] and source == node and target in reach for i, (source, target) in enumerate(EDGES)):
            reach.add(node)
    return tuple(gene if target in reach else 0 for gene, (_, target) in zip(genes, EDGES, strict=True))


@over_spaces
def test_architectures_go_to_json_and_back(space: ChoiceSpace) -> None:
    for genes in drawn(space, 10):
        made = space.decode(genes)
        again = Architecture.from_json(made.to_json())
        assert again == made and again.digest == made.digest and again.to_json() == made.to_json()
        assert again.complexity() == space.cost(genes)


@over_independent
def test_different_genes_are_different_architectures(space: ChoiceSpace) -> None:
    some = set(drawn(space, 60))
    assert len({space.decode(genes).digest for genes in some}) == len(some)
    assert space.decode((0,) * len(space.positions)) == space.template


@over_independent
def test_enumerates_every_candidate_once(space: ChoiceSpace) -> None:
    everything = list(space.enumerate())
    sizes = [len(options) for options in space.options]
    assert everything == list(product(*map(range, sizes)))
    expected = {"nasbench201": 5**6, "small_chain": 3**8, "spos_shufflenet": 4**4, "mobilenet": 6**2 * 7**2}
    assert space.size == len(everything) == expected[space.kind]
    assert all(space.legal(genes) for genes in everything)
    assert set(drawn(space, 50)) <= set(everything)


@over_spaces
def test_names_are_the_chosen_words(space: ChoiceSpace) -> None:
    for genes in drawn(space, 5):
        names = space.names(genes)
        for position, gene, options in zip(space.positions, genes, space.options, strict=True):
            assert names[position] == options[gene].word
        assert space.operations(genes) == tuple(
            options[gene].operation for gene, options in zip(genes, space.options, strict=True)
        )


@pytest.mark.parametrize("space", [CELLS, CHAIN, SHUFFLE], ids=lambda space: space.kind)
def test_samples_are_uniform(space: ChoiceSpace) -> None:
    samples = drawn(space, 3000)
    assert samples == drawn(space, 3000) != drawn(space, 3000, seed=1)
    for position, options in enumerate(space.options):
        counts = [sum(genes[position] == option for genes in samples) for option in range(len(options))]
        assert stats.chisquare(counts).pvalue > 1e-3


@over_independent
def test_mutation_draws_each_gene_again_with_the_probability(space: ChoiceSpace) -> None:
    """Its own value included: it stays with 1 - p + p / k, every other value comes with p / k."""
    parent, p, times, rng = drawn(space, 1, seed=3)[0], 0.3, 3000, random.Random(0)
    mutants = [space.mutate(parent, rng, p) for _ in range(times)]
    assert all(space.legal(genes) for genes in mutants)
    for position, options in enumerate(space.options):
        k = len(options)
        counts = [sum(genes[position] == option for genes in mutants) for option in range(k)]
        expected = [times * p / k + times * (1 - p) * (option == parent[position]) for option in range(k)]
        assert stats.chisquare(counts, expected).pvalue > 1e-3
    changed = [sum(map(int.__ne__, genes, parent)) for genes in mutants]
    assert len(set(changed)) > 2, "genes must be drawn independently of each other"
    assert space.mutate(parent, rng, 0.0) == parent


@over_independent
def test_crossover_takes_each_gene_from_either_parent(space: ChoiceSpace) -> None:
    first, second = (0,) * len(space.positions), tuple(len(options) - 1 for options in space.options)
    rng = random.Random(0)
    children = [space.crossover(first, second, rng) for _ in range(2000)]
    for position in range(len(first)):
        taken = [child[position] for child in children]
        assert set(taken) == {first[position], second[position]}
        assert stats.binomtest(taken.count(0), len(taken)).pvalue > 1e-4
    assert space.crossover(second, second, rng) == second
    assert len(set(children)) > len(first) + 1, "genes must be taken independently of each other"


@over_independent
def test_neighbours_differ_in_one_gene(space: ChoiceSpace) -> None:
    genes = drawn(space, 1)[0]
    neighbours = list(space.neighbours(genes))
    assert len(neighbours) == sum(len(options) - 1 for options in space.options)
    assert len(set(neighbours)) == len(neighbours)
    assert all(space.legal(other) for other in neighbours)
    assert all(sum(map(int.__ne__, other, genes)) == 1 for other in neighbours)


@over_independent
def test_extremes_are_those_of_all_candidates(space: ChoiceSpace) -> None:
    costs = [space.cost(genes) for genes in space.enumerate()]
    for cost in ("params", "macs", "activations"):
        values = [getattr(one, cost) for one in costs]
        assert space.extremes(cost) == (min(values), max(values))


@over_independent
def test_illegal_genes_are_refused(space: ChoiceSpace) -> None:
    length = len(space.positions)
    for wrong in ((0,) * (length - 1), (0,) * (length + 1), ()):
        for use in (space.check, space.decode, space.cost, space.names):
            with pytest.raises(UserError) as caught:
                use(wrong)
            assert caught.value.field == "genes" and str(length) in caught.value.allowed
        assert not space.legal(wrong)
    for position, name in enumerate(space.positions):
        size = len(space.options[position])
        for gene in (-1, size):
            genes = tuple(gene if i == position else 0 for i in range(length))
            with pytest.raises(UserError) as caught:
                space.check(genes)
            assert caught.value.field == f"genes.{position} ({name})"
            assert caught.value.value == gene and caught.value.allowed == f"0 to {size - 1}"
            assert not space.legal(genes)


SHAPE, WIDER = Shape(3, 32, 32), Shape(3, 36, 36)
CHAINS: list[tuple[dict[str, object], Shape, int]] = [
    ({}, SHAPE, 10), ({}, WIDER, 10), ({}, SHAPE, 11), ({"channels": (8, 16, 34)}, SHAPE, 10),
    ({"channels": (9, 16, 32)}, SHAPE, 10), ({"repeats": (1, 2)}, SHAPE, 10),
    ({"repeats": (2, 1)}, SHAPE, 10), ({"head_channels": 33}, SHAPE, 10), ({"dropout": 0}, SHAPE, 10),
]  # fmt: skip
VARIANTS: list[ChoiceSpace] = [
    NasBench201Space(NasBench201Settings(channels=4, cells=1), SHAPE, 10),
    NasBench201Space(NasBench201Settings(channels=5, cells=1), SHAPE, 10),
    NasBench201Space(NasBench201Settings(channels=4, cells=2), SHAPE, 10),
    NasBench201Space(NasBench201Settings(channels=4, cells=1), WIDER, 10),
    NasBench201Space(NasBench201Settings(channels=4, cells=1), SHAPE, 11),
    SmallChainSpace(SmallChainSettings(channels=4, head_channels=16), SHAPE, 10),
    SmallChainSpace(SmallChainSettings(channels=5, head_channels=16), SHAPE, 10),
    SmallChainSpace(SmallChainSettings(channels=4, head_channels=17), SHAPE, 10),
    SmallChainSpace(SmallChainSettings(channels=4, head_channels=16), WIDER, 10),
    SmallChainSpace(SmallChainSettings(channels=4, head_channels=16), SHAPE, 11),
    *(
        ShuffleNetSpace(SHUFFLE.settings.model_copy(update=new), image, classes)
        for new, image, classes in CHAINS
    ),
]


def test_digests_change_when_anything_changes() -> None:
    assert len({space.digest for space in VARIANTS}) == len(VARIANTS)
    again = [type(space)(space.settings, space.image, space.classes) for space in VARIANTS]  # type: ignore
    assert [space.digest for space in again] == [space.digest for space in VARIANTS]


class Reordered(SmallChainSpace):
    """The same candidates; other genes for each."""

    @property
    def options(self) -> tuple[tuple[Option, ...], ...]:
        return tuple(options[::-1] for options in super().options)


def test_the_order_of_options_is_part_of_the_digest() -> None:
    assert Reordered(CHAIN.settings, CHAIN.image, CHAIN.classes).digest != CHAIN.digest


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"repeats": (2,)}, "repeats"),
        ({"repeats": (2, 2, 2)}, "repeats"),
        ({"repeats": (2, 0)}, "repeats.1"),
        ({"repeats": (-1, 2)}, "repeats.0"),
        ({"channels": (1, 16, 32)}, "channels.0"),
        ({"channels": (8, 17, 32)}, "channels.1"),
        ({"channels": (8, 16, 16)}, "channels.2"),
        ({"channels": (8, 8, 16)}, "channels.1"),
    ],
    ids=str,
)
def test_impossible_chains_are_refused(changes: dict[str, tuple[int, ...]], field: str) -> None:
    with refused(field):
        ShuffleNetSettings.model_validate({"channels": (8, 16, 32), "repeats": (2, 2)} | changes)


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        (ShuffleNetSettings, {"channels": (8,)}),
        (ShuffleNetSettings, {"dropout": 1.0}),
        (ShuffleNetSettings, {"width": 2}),
        (SmallChainSettings, {"channels": 1}),
        (NasBench201Settings, {"cells": 0}),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: type[ShuffleNetSettings], values: object) -> None:
    with pytest.raises(ValidationError):
        settings.model_validate(values)


# Inverted residuals ------------------------------------------------------------------------------


def test_the_released_mobilenet_spaces() -> None:
    """ABS's 21 layers, with identity in all but those that change a shape; FairNAS's 19 (angle spec)."""
    image = Shape(3, 224, 224)
    space = MobileNetSpace(MobileNetSettings(), image, 1000)
    assert len(space.options) == 21 and space.size == 6**6 * 7**15
    assert [i for i, some in enumerate(space.options) if len(some) == 6] == [0, 4, 8, 12, 16, 20]
    shapes = [tuple(shape) for shape in space.template.stage_shapes()]
    assert shapes[0] == (40, 112, 112) and shapes[-1] == (432, 7, 7) and len(shapes) == 23
    fair = MobileNetSpace(
        MobileNetSettings(
            channels=(32, 16, 32, 40, 80, 96, 192, 320), repeats=(2, 4, 4, 4, 4, 1), head_channels=1280,
            identity=False,
        ),
        image, 1000,
    )  # fmt: skip
    assert fair.size == 6**19 and fair.template.stage_shapes()[-1] == (320, 7, 7)


def test_any_number_of_layers_is_left_out_as_often() -> None:
    rng = random.Random(0)
    space = MobileNetSpace(MobileNetSettings(), Shape(3, 32, 32), 10)
    depths = [sum(gene == IDENTITY for gene in space.sample(rng)) for _ in range(3200)]
    assert stats.chisquare([depths.count(number) for number in range(16)]).pvalue > 1e-3
    part = narrowed(space, [Operator(1, option) for option in range(6)] + [Operator(2, IDENTITY)])
    assert {genes[1] for genes in (part.sample(rng) for _ in range(50))} == {IDENTITY}
    assert IDENTITY not in {genes[2] for genes in (part.sample(rng) for _ in range(200))}
    other = [part.sample(rng)[3] for _ in range(2000)]
    assert abs(other.count(IDENTITY) / 2000 - 0.5) < 0.05


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"repeats": (4, 4)}, "repeats", "6 numbers"),
        ({"strides": (2, 2, 3, 1, 2, 1)}, "strides.2", "1 or 2"),
        ({"channels": (40, 24, 32, 0, 112, 128, 256, 432)}, "channels.3", "2 or more"),
        (
            {"channels": (40, 24, 24, 56, 9, 10, 11, 12), "strides": (1, 2, 2, 1, 2, 1)},
            "strides.0",
            "2 where",
        ),
    ],
)
def test_mobilenet_settings_that_cannot_be(given: dict[str, object], field: str, words: str) -> None:
    with refused(field, words):
        MobileNetSettings.model_validate(given)
