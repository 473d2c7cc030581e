"""RandWire's search space, the rules every space inherits, and the counters behind all randomness."""

import itertools
import pickle
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from networks.counters import counter_generator, counter_random, counter_seed
from networks.errors import UserError
from networks.generators import BarabasiAlbert, ErdosRenyi, RandomGraph, WattsStrogatz, paper_grid
from networks.randwire import RandWireTemplate
from networks.spaces.randwire import RandWireSpace

TEMPLATE = RandWireTemplate(nodes=8, channels=8)
GENERATORS = [ErdosRenyi(p=0.4), WattsStrogatz(k=4, p=0), BarabasiAlbert(m=2), WattsStrogatz(k=4, p=0.75)]


def space(
    template: RandWireTemplate = TEMPLATE,
    generators: list[RandomGraph] | None = None,
    seeds: tuple[int, ...] = (1, 2, 3),
) -> RandWireSpace:
    return RandWireSpace(template, GENERATORS if generators is None else generators, seeds)


def test_enumerates_every_candidate_once_with_seeds_fastest() -> None:
    made = space()
    everything = list(made.enumerate())
    assert made.size == len(everything) == len(set(everything)) == 4 * 3
    assert everything[:4] == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (1, 0, 0)]
    words = [(made.names(genes)["setting"], made.names(genes)["seed"]) for genes in everything]
    settings = ["ER(0.4)", "WS(4, 0)", "WS(4, 0.75)", "BA(2)"]  # kinds in order of first appearance
    assert words == list(itertools.product(settings, (1, 2, 3)))


def test_names_say_what_a_candidate_is() -> None:
    assert space().positions == ("generator", "setting", "seed")
    assert space().names((1, 1, 2)) == {
        "generator": "WS", "setting": "WS(4, 0.75)", "seed": 3, "k": 4, "p": 0.75
    }  # fmt: skip
    assert space().names((2, 0, 0)) == {"generator": "BA", "setting": "BA(2)", "seed": 1, "m": 2}


def test_decodes_to_the_network_of_its_generator_and_seed() -> None:
    made = space()
    for genes in made.enumerate():
        words, seed = made.names(genes), made.seeds[genes[2]]
        assert words["seed"] == seed
        (generator,) = [one for one in GENERATORS if one.label == words["setting"]]
        assert made.generator(genes) == generator
        assert made.wirings(genes) == TEMPLATE.wirings(generator, seed)
        assert made.decode(genes) == TEMPLATE.architecture(generator, seed)


def test_random_settings_and_seeds_give_different_architectures() -> None:
    made = space()
    digests = {made.decode(genes).digest for genes in made.enumerate()}
    assert len(digests) == 3 * 3 + 1  # WS(4, 0) has no randomness: one network for its three seeds


def test_the_paper_grid_is_a_space() -> None:
    made = space(RandWireTemplate(), paper_grid(), (1, 2, 3, 4, 5))
    assert made.size == (4 + 5 + 20) * 5
    assert made.decode((0, 0, 0)).complexity().params > 5e6


def test_samples_are_legal_reproducible_and_reach_everything() -> None:
    made = space()
    samples = [made.sample(random.Random(seed)) for seed in range(300)]
    assert samples == [made.sample(random.Random(seed)) for seed in range(300)]
    assert set(samples) == set(made.enumerate())
    kinds = Counter(genes[0] for genes in samples)
    assert all(70 <= kinds[kind] <= 130 for kind in range(3))  # uniform over generators: 100 +/- 4 sd


@pytest.mark.parametrize(
    ("genes", "field"),
    [
        ((0, 0), "genes"),
        ((0, 0, 0, 0), "genes"),
        ((), "genes"),
        ((3, 0, 0), "genes.0 (generator)"),
        ((-1, 0, 0), "genes.0 (generator)"),
        ((0, 1, 0), "genes.1 (setting)"),
        ((1, 2, 0), "genes.1 (setting)"),
        ((0, 0, 3), "genes.2 (seed)"),
        ((0, 0, -1), "genes.2 (seed)"),
    ],
)
def test_illegal_genes_are_refused(genes: tuple[int, ...], field: str) -> None:
    uses: list[Callable[[tuple[int, ...]], Any]] = [space().check, space().decode, space().names]
    for use in uses:
        with pytest.raises(UserError) as caught:
            use(genes)
        assert caught.value.field == field


CHANGES: dict[str, RandWireSpace] = {
    "image": space(TEMPLATE.model_copy(update={"image": (3, 64, 64)})),
    "classes": space(TEMPLATE.model_copy(update={"classes": 10})),
    "regime": space(TEMPLATE.model_copy(update={"regime": "cifar"})),
    "nodes": space(TEMPLATE.model_copy(update={"nodes": 9})),
    "channels": space(TEMPLATE.model_copy(update={"channels": 9})),
    "first_stride": space(TEMPLATE.model_copy(update={"first_stride": 2})),
    "operation": space(TEMPLATE.model_copy(update={"operation": "triplet_conv_3x3"})),
    "head_channels": space(TEMPLATE.model_copy(update={"head_channels": None})),
    "dropout": space(TEMPLATE.model_copy(update={"dropout": 0.2})),
    "edge_drop": space(TEMPLATE.model_copy(update={"edge_drop": 0.1})),
    "require_connected": space(TEMPLATE.model_copy(update={"require_connected": True})),
    "a setting": space(generators=[ErdosRenyi(p=0.5), *GENERATORS[1:]]),
    "one setting more": space(generators=[*GENERATORS, BarabasiAlbert(m=3)]),
    "one setting less": space(generators=GENERATORS[:3]),
    "settings in another order": space(generators=[GENERATORS[i] for i in (0, 3, 2, 1)]),
    "generators in another order": space(generators=[GENERATORS[i] for i in (2, 0, 1, 3)]),
    "seeds": space(seeds=(1, 2, 4)),
    "seeds in another order": space(seeds=(1, 3, 2)),
    "one seed less": space(seeds=(1, 2)),
}


def test_digest_changes_when_anything_changes() -> None:
    fields = set(RandWireTemplate.model_fields)
    assert fields <= set(CHANGES), "a new field of the template needs its line here"
    digests = [space().digest, *(changed.digest for changed in CHANGES.values())]
    assert len(set(digests)) == len(digests)
    assert space().digest == digests[0]


def test_equal_spaces_have_equal_digests() -> None:
    """Where the two kinds are interleaved does not matter: the genes mean the same."""
    assert space(generators=[GENERATORS[i] for i in (0, 1, 3, 2)]).digest == space().digest


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"generators": []}, "generators"),
        ({"generators": [ErdosRenyi(p=0.4), ErdosRenyi(p=0.4)]}, "generators.1"),
        ({"generators": [BarabasiAlbert(m=2), ErdosRenyi(p=0.4), BarabasiAlbert(m=2)]}, "generators.2"),
        ({"generators": [BarabasiAlbert(m=8)]}, "generators.0.m"),
        ({"generators": [ErdosRenyi(p=0.4), WattsStrogatz(k=8, p=0.5)]}, "generators.1.k"),
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 2, 1)}, "seeds"),
    ],
    ids=str,
)
def test_impossible_spaces_are_refused_with_the_path_of_the_field(
    changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(UserError) as caught:
        space(**changes)
    assert caught.value.field == field


def test_the_smallest_stage_decides() -> None:
    """conv2 of the regular regime has N/2 nodes."""
    regular = RandWireTemplate(regime="regular", nodes=16, channels=8)
    assert regular.stage_nodes() == (8, 16, 16, 16)
    assert space(regular, [WattsStrogatz(k=6, p=0.5), BarabasiAlbert(m=7)]).size == 6
    with pytest.raises(UserError) as caught:
        space(regular, [WattsStrogatz(k=6, p=0.5), WattsStrogatz(k=8, p=0.5)])
    assert caught.value.field == "generators.1.k"


@pytest.mark.parametrize("operation", ["identity", "none"])
def test_operations_that_keep_the_size_are_refused(operation: str) -> None:
    with pytest.raises(
        ValueError, match=f"operation(.|\n)*'{operation}' cannot be used.*triplet_sep_conv_3x3"
    ):
        RandWireTemplate(operation=operation)


def test_require_connected_reaches_the_wirings() -> None:
    sparse = ErdosRenyi(p=0.25)
    plain, connected = (
        space(TEMPLATE.model_copy(update={"require_connected": required}), [sparse], tuple(range(20)))
        for required in (False, True)
    )
    assert not all(wiring.connected for genes in plain.enumerate() for wiring in plain.wirings(genes))
    assert all(wiring.connected for genes in connected.enumerate() for wiring in connected.wirings(genes))


# Counters -----------------------------------------------------------------------------------------


def test_counters_are_recorded() -> None:
    """Whoever changes these changes every search: seeds are the heads of SHA-256("i0/sepoch/i3")."""
    assert counter_seed(0) == 5940445630358017772
    assert counter_seed(0, "epoch", 3) == 4481794990961732963
    assert counter_random(7, "a").random() == 0.8569910767773332
    assert counter_generator(7, "a").initial_seed() == counter_seed(7, "a")
    assert torch.rand(1, generator=counter_generator(7, "a")).item() == pytest.approx(0.76918566, abs=1e-7)


def test_different_paths_have_different_seeds() -> None:
    paths: list[tuple[int | str, ...]] = [
        (), ("a",), ("a", 1), ("a", "1"), (1, "a"), ("a", 11), ("a", 1, 1), ("a1",), ("a", "i1"),
        ("a/s1",), ("a/i1",), ("a", "s1"), ("a~1s1",), ("a~", "1"), ("a", "~1"),
        ("", "a"), ("a", ""), (-1,), (1,),
    ]  # fmt: skip
    seeds = {counter_seed(seed, *path) for seed in (0, 1, -1) for path in paths}
    assert len(seeds) == 3 * len(paths)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_counter_draws_are_independent_of_what_ran_before() -> None:
    first = counter_random(3, "x").random()
    counter_random(3, "y").random()
    random.random()
    assert counter_random(3, "x").random() == first
    many = [counter_random(3, "x", i).random() for i in range(2000)]
    assert sum(many) / 2000 == pytest.approx(0.5, abs=4 * 0.2887 / 2000**0.5)
    pairs = sum(a * b for a, b in itertools.pairwise(many)) / 1999
    assert pairs == pytest.approx(0.25, abs=0.03)


# Errors -------------------------------------------------------------------------------------------


def test_user_errors_cross_process_borders_whole() -> None:
    error = UserError("k", 5, "even numbers", "Take 4.").under("generators.0")
    again = pickle.loads(pickle.dumps(error))
    assert (again.field, again.value, again.allowed, again.fix) == (
        "generators.0.k",
        5,
        "even numbers",
        "Take 4.",
    )
    assert str(again) == str(error) == "generators.0.k: 5 cannot be used; allowed: even numbers. Take 4."
