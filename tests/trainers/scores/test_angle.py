"""The angle: lengths and limits of the vector (A1 to A8), the table against the definition (A11), R4."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from torch import Tensor

from networks.architecture import Shape
from networks.counters import counter_generator, counter_random
from networks.errors import UserError
from networks.spaces.chain import ShuffleNetSettings, ShuffleNetSpace, SmallChainSettings, SmallChainSpace
from networks.spaces.choices import ChoiceSpace
from networks.spaces.nasbench201 import EDGES, NasBench201Settings, NasBench201Space, cell_genes
from networks.spaces.paths import paths_between
from networks.spaces.space import Genes
from networks.supernet import Supernet, build_supernet
from tests.trainers.scores.angle_reference import (
    PATHS,
    angle_between,
    block_vector,
    cell_vector,
    fixed_vector,
    joined,
    naive_angle,
)
from trainers.data import Data, DataSettings, open_data
from trainers.one_shot import OneShotTrainer
from trainers.one_shot_settings import OneShotSettings
from trainers.recalibration import recalibrated
from trainers.scores import angle as angle_module
from trainers.scores.angle import Angle, AngleTable
from trainers.scores.score import Bench
from trainers.scores.testing import check_score

# Index 13714 of the benchmark, the best on CIFAR-10.
BEST = cell_genes(
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
)
CONVOLUTIONS, SKIPS, NONES = (3,) * 6, (1,) * 6, (0,) * 6
FEW_POOLS = (4, 0, 0, 0, 4, 0)  # avg_pool on 0-1 and 1-3, the rest none


def cells(channels: int = 4, number: int = 1) -> NasBench201Space:
    return NasBench201Space(NasBench201Settings(channels=channels, cells=number), Shape(3, 32, 32), 10)


def moved(supernet: Supernet, amount: float, seed: int = 1) -> dict[str, Tensor]:
    """Gives every parameter noise of `amount` times its deviation; returns what it was before."""
    before = {name: value.detach().clone() for name, value in supernet.named_parameters()}
    with torch.no_grad():
        for name, value in supernet.named_parameters():
            noise = torch.randn(value.shape, generator=counter_generator(seed, name))
            scale = float(value.std()) if value.numel() > 1 and float(value.std()) else 1.0
            value.add_(noise, alpha=amount * scale)
    return before


def filled(supernet: Supernet) -> dict[str, Tensor]:
    """All parameters 1, now and before: the inner product <w0, w0> is then the length of V."""
    with torch.no_grad():
        for value in supernet.parameters():
            value.fill_(1)
    return dict(supernet.named_parameters())


def length(table: AngleTable, genes: Genes) -> float:
    return float(table.products([genes])[0, 0])


# --- the vector


@pytest.mark.parametrize(("stage", "channels", "size"), [(0, 16, 18_432), (2, 32, 73_728), (4, 64, 294_912)])
def test_a1_length_of_a_cell_of_convolutions(stage: int, channels: int, size: int) -> None:
    weights = dict(build_supernet(cells(16), 0).named_parameters())
    vector = joined(list(cell_vector(weights, CONVOLUTIONS, stage, channels, PATHS)))
    assert len(vector) == size == 8 * 9 * channels**2


def test_a1_length_in_the_table() -> None:
    supernet = build_supernet(cells(16), 0)
    table = AngleTable.of(supernet, filled(supernet), "searched")
    assert length(table, CONVOLUTIONS) == 18_432 + 73_728 + 294_912


@pytest.mark.parametrize(
    ("genes", "size"),
    [
        # The figure is of the best cell; the cell of convolutions alone would have 2,008,666.
        pytest.param(BEST, 1_551_706, id="best cell"),
        pytest.param(CONVOLUTIONS, 5 * 387_072 + 464 + 72_064 + 778, id="convolutions"),
        pytest.param(SKIPS, 464 + 72_064 + 778, id="skips"),
    ],
)
def test_a3_length_of_a_whole_network(genes: Genes, size: int) -> None:
    supernet = build_supernet(cells(16, 5), 0)
    initial = filled(supernet)
    assert length(AngleTable.of(supernet, initial), genes) == size
    block = block_vector(supernet, initial, genes)
    assert block is not None and len(joined(block + fixed_vector(initial))) == size


def test_a3_always_present_parts() -> None:
    weights = dict(build_supernet(cells(16), 0).named_parameters())
    sizes = {
        part: sum(value.numel() for name, value in weights.items() if name.startswith(prefixes))
        for part, prefixes in {
            "head": ("stem.",),
            "reductions": ("stages.1.operations", "stages.3.operations"),
            "tail": ("head.",),
        }.items()
    }
    assert sizes == {"head": 464, "reductions": 72_064, "tail": 778}
    assert len(joined(fixed_vector(weights))) == sum(sizes.values())


def test_a4_length_of_a_cell_of_pools() -> None:
    supernet = build_supernet(cells(16), 0)
    weights = filled(supernet)
    live = [path for path in PATHS if path == ("0-1", "1-3")]
    sizes = [
        len(joined(list(cell_vector(weights, FEW_POOLS, stage, channels, live))))
        for stage, channels in ((0, 16), (2, 32), (4, 64))
    ]
    assert sizes == [288, 576, 1152]
    # Each element is 1/9, so the squares add up to 1/81 of the lengths.
    table = AngleTable.of(supernet, weights, "searched")
    assert length(table, FEW_POOLS) == pytest.approx(sum(sizes) / 81, rel=1e-12)


# --- the angle


def test_a5_nothing_has_turned() -> None:
    supernet = build_supernet(cells(), 0)
    initial = {name: value.detach().clone() for name, value in supernet.named_parameters()}
    genes = [BEST, CONVOLUTIONS, SKIPS, FEW_POOLS]
    assert AngleTable.of(supernet, initial).angles(genes).max() < 1e-7


@pytest.mark.parametrize(("factor", "expected"), [(3.0, 0.0), (0.1, 0.0), (-1.0, math.pi), (-0.3, math.pi)])
def test_a5_multiples(factor: float, expected: float) -> None:
    supernet = build_supernet(cells(), 0)
    initial = {name: value.detach().clone() for name, value in supernet.named_parameters()}
    with torch.no_grad():
        for value in supernet.parameters():
            value.mul_(factor)
    # No pool in them: what is constant does not scale.
    angles = AngleTable.of(supernet, initial).angles([BEST, CONVOLUTIONS, SKIPS])
    assert angles == pytest.approx(expected, abs=1e-6)  # float32 weights are multiples to 6e-8


def test_a5_independent_weights_are_orthogonal() -> None:
    supernet = build_supernet(cells(8), 0)
    with torch.no_grad():  # one deviation for all, so that the dimension is that of the vector
        for name, value in supernet.named_parameters():
            value.copy_(torch.randn(value.shape, generator=counter_generator(0, name)))
    initial = {
        name: torch.randn(value.shape, generator=counter_generator(1, name))
        for name, value in supernet.named_parameters()
    }
    # A chain of convolutions on one path: nothing is repeated.
    genes = (3, 0, 3, 0, 0, 3)
    dimension = 27 * (8**2 + 16**2 + 32**2)
    angle = AngleTable.of(supernet, initial, "searched").angle(genes)
    assert abs(angle - math.pi / 2) < 4 / math.sqrt(dimension)


def test_a6_a_pool_lowers_the_angle() -> None:
    supernet = build_supernet(cells(8), 0)
    initial = {name: value.detach().clone() for name, value in supernet.named_parameters()}
    with torch.no_grad():
        for name, value in supernet.named_parameters():
            if value.ndim == 4:  # equal relative noise: each convolution turns by atan(0.3)
                noise = torch.randn(value.shape, generator=counter_generator(1, name))
                noise -= value * (noise * value).sum() / value.square().sum()
                value += 0.3 * noise * value.norm() / noise.norm()
    assert AngleTable.of(supernet, initial, "searched").angle(BEST) == pytest.approx(math.atan(0.3))
    tables = [AngleTable.of(supernet, initial, parts) for parts in ("all", "searched")]
    for genes, edge in itertools.product([CONVOLUTIONS, BEST], range(6)):
        if genes[edge] == 3:
            pooled = (*genes[:edge], 4, *genes[edge + 1 :])
            assert all(table.angle(pooled) < table.angle(genes) for table in tables)


def test_a6_skips_leave_the_fixed_part() -> None:
    supernet = build_supernet(cells(), 0)
    initial = moved(supernet, 0.3)
    now = dict(supernet.named_parameters())
    fixed = angle_between(joined(fixed_vector(initial)), joined(fixed_vector(now)))
    assert AngleTable.of(supernet, initial).angle(SKIPS) == pytest.approx(fixed, abs=1e-12)
    assert AngleTable.of(supernet, initial, "searched").angle(SKIPS) == 0


def test_a7_the_place_of_an_operation_counts() -> None:
    supernet = build_supernet(cells(), 0)
    table = AngleTable.of(supernet, moved(supernet, 0.3))
    one, two = (3, 1, 1, 1, 1, 1), (1, 1, 1, 3, 1, 1)
    assert table.angle(one) != table.angle(two)
    assert table.angle(one) == AngleTable.of(supernet, moved(build_supernet(cells(), 0), 0.3)).angle(one)
    unit = AngleTable.of(supernet, filled(supernet), "searched")
    assert length(unit, one) == 2 * length(unit, two)  # on two paths, and on one


def test_a8_batch_norm_hides_a_scale_that_the_angle_sees() -> None:
    supernet = build_supernet(cells(), 0)
    initial = moved(supernet, 0.3)
    images = torch.randn(32, 3, 32, 32, generator=counter_generator(2))
    table = AngleTable.of(supernet, initial, "searched")
    with recalibrated(supernet, [images], CONVOLUTIONS) as forward:
        logits = forward(images)
    convolutions = [
        module
        for gene in range(6)
        for part in supernet.searched_weights(gene, 3)
        for module in part.modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    with torch.no_grad():
        convolutions[0].weight.mul_(2)
    with recalibrated(supernet, [images], CONVOLUTIONS) as forward:
        torch.testing.assert_close(forward(images), logits, atol=1e-5, rtol=0)
    scaled = AngleTable.of(supernet, initial, "searched").angle(CONVOLUTIONS)
    assert abs(scaled - table.angle(CONVOLUTIONS)) > 1e-3
    with torch.no_grad():
        for module in convolutions[1:]:
            module.weight.mul_(2)
    scaled = AngleTable.of(supernet, initial, "searched").angle(CONVOLUTIONS)
    assert scaled == pytest.approx(table.angle(CONVOLUTIONS), abs=1e-9)


def test_r4_dead_cells_have_angle_0() -> None:
    space = cells()
    supernet = build_supernet(space, 0)
    table = AngleTable.of(supernet, moved(supernet, 0.3))
    everything = list(space.enumerate())
    angles = table.angles(everything)
    dead = [
        genes
        for genes in everything
        if not any(all(genes[edge] for edge in path) for path in ((3,), (1, 5), (0, 2, 5), (0, 4)))
    ]
    assert len(dead) == 341 and set(dead) == {everything[i] for i in np.flatnonzero(angles == 0)}


# --- the table against the definition


def spaces() -> list[ChoiceSpace]:
    return [
        cells(4, 2),
        SmallChainSpace(SmallChainSettings(channels=4, head_channels=8), Shape(3, 16, 16), 10),
        ShuffleNetSpace(
            ShuffleNetSettings(channels=(8, 16, 32), repeats=(2, 2), head_channels=16), Shape(3, 32, 32), 5
        ),
    ]


@pytest.mark.parametrize("amount", [1.0, 0.1, 1e-4])
@pytest.mark.parametrize("space", spaces(), ids=lambda space: space.kind)
def test_a11_the_table_equals_the_definition(space: ChoiceSpace, amount: float) -> None:
    supernet = build_supernet(space, 3)
    initial = moved(supernet, amount)
    rng = counter_random(7, "genes")
    genes = [space.sample(rng) for _ in range(30)]
    for fixed in (True, False):
        found = AngleTable.of(supernet, initial, "all" if fixed else "searched").angles(genes)
        naive = [naive_angle(supernet, initial, one, fixed=fixed) for one in genes]
        assert found == pytest.approx(naive, abs=1e-9)
        assert max(naive) > 0.5 * amount


def test_small_angles_keep_their_digits() -> None:
    """1 - cosine would be 0 here."""
    supernet = build_supernet(cells(), 3)
    initial = {}
    for name, value in supernet.named_parameters():
        noise = torch.randn(value.shape, generator=counter_generator(1, name), dtype=torch.float64)
        initial[name] = value.detach().double() * (1 + 1e-10 * noise)
    found = AngleTable.of(supernet, initial).angle(BEST)
    assert found == pytest.approx(naive_angle(supernet, initial, BEST), rel=1e-4)
    assert 1e-12 < found < 1e-9


def test_an_angle_alone_is_the_one_among_many() -> None:
    supernet = build_supernet(cells(), 0)
    table = AngleTable.of(supernet, moved(supernet, 0.3))
    rng = counter_random(7, "genes")
    genes = [cells().sample(rng) for _ in range(50)]
    assert [table.angle(one) for one in genes] == table.angles(genes).tolist()


def test_the_paths_that_count_are_an_argument() -> None:
    supernet = build_supernet(cells(), 0)
    initial = moved(supernet, 0.3)
    short = [path for path in paths_between(EDGES, (0,), (3,)) if len(path) < 3]
    table = AngleTable.of(supernet, initial, paths=lambda graph: short)
    genes = (3, 2, 3, 2, 3, 3)
    some = tuple(path for path in PATHS if len(path) < 3)
    assert table.angle(genes) == pytest.approx(naive_angle(supernet, initial, genes, paths=some), abs=1e-9)
    assert table.angle(genes) != pytest.approx(AngleTable.of(supernet, initial).angle(genes), abs=1e-6)
    assert table.angle((3, 0, 3, 0, 0, 3)) == 0  # the one path that is left does not count


def test_the_memory_layout_does_not_matter() -> None:
    supernet = build_supernet(cells(), 0)
    initial = moved(supernet, 0.3)
    expected = AngleTable.of(supernet, initial).angle(BEST)
    supernet = supernet.to(memory_format=torch.channels_last)
    assert AngleTable.of(supernet, initial).angle(BEST) == expected


# --- after training


@pytest.fixture(scope="module")
def data() -> Data:
    return open_data(DataSettings())


@pytest.fixture(scope="module")
def trained(data: Data) -> OneShotTrainer:
    space = NasBench201Space(NasBench201Settings(channels=4, cells=1), data.image, len(data.classes))
    trainer = OneShotTrainer(space, data, OneShotSettings(steps=40, batch_size=32), seed=0)
    trainer.train(40)
    return trainer


def bench_of(trainer: OneShotTrainer) -> Bench:
    return Bench(
        trainer.space, trainer.data, 0, batch_size=32, supernet=trainer.supernet, initial=trainer.initial
    )


@pytest.mark.parametrize("parts", ["all", "searched"])
def test_a11_all_cells_of_a_trained_supernet(trained: OneShotTrainer, parts: str) -> None:
    initial = trained.initial
    everything = list(trained.space.enumerate())
    table = AngleTable.of(trained.supernet, initial, parts)  # type: ignore[arg-type]
    started = time.process_time()
    angles = table.angles(everything)
    assert time.process_time() - started < 5  # measured: benchmarks/RESULTS.md
    some = counter_random(0, "some").sample(range(len(everything)), 200)
    naive = [naive_angle(trained.supernet, initial, everything[i], fixed=parts == "all") for i in some]
    assert angles[some] == pytest.approx(naive, abs=1e-9)
    assert np.isfinite(angles).all() and angles.min() == 0 and 1e-3 < angles.max() < math.pi


@pytest.mark.parametrize("parts", ["all", "searched"])
def test_the_scores_keep_the_promises(trained: OneShotTrainer, parts: str) -> None:
    score = Angle(parts)  # type: ignore[arg-type]
    bench = bench_of(trained)
    check_score(score, bench, [BEST, CONVOLUTIONS, (4, 3, 0, 1, 2, 3)], [NONES], knows_dead=False)
    assert score(bench, NONES) == 0
    expected = naive_angle(trained.supernet, bench.initial, BEST, fixed=parts == "all")
    assert score(bench, BEST) == pytest.approx(expected, abs=1e-9)


def test_inner_products_are_computed_once_for_a_bench(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    space = NasBench201Space(NasBench201Settings(channels=2, cells=1), data.image, len(data.classes))
    trainer = OneShotTrainer(space, data, OneShotSettings(steps=4, batch_size=8), seed=0)
    made = []
    weights = angle_module._Weights
    monkeypatch.setattr(angle_module, "_Weights", lambda *given: made.append(1) or weights(*given))
    angles = []
    for _ in range(2):
        trainer.train(2)
        bench = bench_of(trainer)
        angles += [Angle()(bench, BEST), Angle()(bench, BEST)]
    assert len(made) == 2
    assert 0 < angles[0] == angles[1] != angles[2] == angles[3]


def test_what_cannot_be_used(trained: OneShotTrainer) -> None:
    initial = trained.initial
    name = next(iter(initial))
    for wrong in ({}, {**initial, name: initial[name][:1]}, {**initial, "other": initial[name]}):
        with pytest.raises(UserError, match="the parameters of this supernet"):
            AngleTable.of(trained.supernet, wrong)
    with pytest.raises(UserError, match="angle"):
        Angle()(Bench(trained.space, trained.data, 0), BEST)
    table = AngleTable.of(trained.supernet, initial)
    for genes in ((3,) * 5, (3, 3, 3, 3, 3, 5), (-1, 3, 3, 3, 3, 3)):
        with pytest.raises(UserError, match="genes"):
            table.angles([BEST, genes])
