"""Every registered score on every space keeps the promises of `Score`; what the registry refuses."""

import random

import pytest
import torch

from networks.errors import UserError
from networks.generators import WattsStrogatz
from networks.liveness import WORST
from networks.randwire import RandWireTemplate
from networks.spaces.cells import CellsSettings, CellsSpace
from networks.spaces.chain import (
    ShuffleNetSettings,
    ShuffleNetSpace,
    SmallChainSettings,
    SmallChainSpace,
)
from networks.spaces.choices import ChoiceSpace
from networks.spaces.darts import DartsSettings, DartsSpace
from networks.spaces.mobilenet import MobileNetSettings, MobileNetSpace
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space
from networks.spaces.randwire import RandWireSpace
from networks.spaces.space import Genes
from networks.supernet import build_supernet
from tests.trainers.scores.images import small_images
from trainers.data import Data
from trainers.scores.registry import SCORES, check_supported, find_score
from trainers.scores.score import Bench
from trainers.scores.testing import check_score

KINDS = ("nasbench201", "small_chain", "spos_shufflenet", "mobilenet", "darts", "cells")
# Dead candidates have costs, and the angle 0 (spec R4).
WITHOUT_WORST = ("params", "macs", "angle", "angle_searched", "angle_last")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return small_images(tmp_path_factory.mktemp("data") / "images.npz")


def space_of(kind: str, data: Data) -> ChoiceSpace:
    image, classes = data.image, len(data.classes)
    if kind == "nasbench201":
        return NasBench201Space(NasBench201Settings(channels=4, cells=1), image, classes)
    if kind == "small_chain":
        return SmallChainSpace(SmallChainSettings(channels=4, head_channels=8), image, classes)
    if kind == "mobilenet":
        small = MobileNetSettings(channels=(8, 4, 8, 12), repeats=(2, 1), strides=(2, 1), head_channels=16)
        return MobileNetSpace(small, image, classes)
    if kind == "darts":
        return DartsSpace(DartsSettings(channels=4, cells=3, regime="cifar"), image, classes)
    if kind == "cells":
        return CellsSpace(CellsSettings(channels=4, cells=3), image, classes)
    settings = ShuffleNetSettings(channels=(8, 16, 32), repeats=(2, 2), head_channels=16)
    return ShuffleNetSpace(settings, image, classes)


def bench_of(kind: str, data: Data) -> Bench:
    """With a supernet whose weights have moved since `initial`, statistics included."""
    space = space_of(kind, data)
    initial = dict(build_supernet(space, 1).named_parameters())
    supernet = build_supernet(space, 1)
    rng = random.Random(0)
    optimiser = torch.optim.SGD(supernet.parameters(), lr=0.05)
    for step in range(4):
        x, y = data.train_batch(0, step, 16)
        supernet.new_step(0, step)
        torch.nn.functional.cross_entropy(supernet(x, space.sample(rng)), y).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    parameters = {name: value.detach().clone() for name, value in initial.items()}
    return Bench(space, data, seed=0, batch_size=16, supernet=supernet, initial=parameters)


@pytest.fixture(scope="module")
def benches(data: Data) -> dict[str, Bench]:
    return {kind: bench_of(kind, data) for kind in KINDS}


def live_and_dead(space: ChoiceSpace) -> tuple[list[Genes], list[Genes]]:
    sizes = [len(options) for options in space.options]
    most, mixed = tuple(size - 1 for size in sizes), tuple(i % size for i, size in enumerate(sizes))
    if isinstance(space, NasBench201Space):
        # 0-1 alone leads nowhere: as dead as no edge at all.
        return [(3,) * 6, (2, 1, 4, 3, 0, 3)], [(0,) * 6, (3, 0, 0, 0, 0, 0)]
    if isinstance(space, CellsSpace):
        nothing = tuple([8] * len(sizes))
        return [space.sample(random.Random(i)) for i in range(2)], [nothing]
    if not space.independent:
        return [space.sample(random.Random(i)) for i in range(2)], []
    return [most, mixed], []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCORES)
def test_score_keeps_its_promises(name: str, kind: str, benches: dict[str, Bench]) -> None:
    score, bench = find_score(name), benches[kind]
    if not score.supports(bench.space):
        with pytest.raises(UserError):
            check_supported(score, bench.space)
        return
    live, dead = live_and_dead(bench.space)
    check_supported(score, bench.space)
    check_score(score, bench, live, dead, knows_dead=name not in WITHOUT_WORST)
    assert all(score(bench, one) < score(bench, live[0]) for one in dead), "dead ones rank below"
    assert score(bench, live[0]) > WORST


def test_names_are_those_of_the_scores() -> None:
    assert all(score.name == name for name, score in SCORES.items())
    assert not any(SCORES[name].needs_supernet for name in ("naswot", "synflow", "params"))


def test_an_unknown_score_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        find_score("synfow", "searcher.score")
    assert caught.value.field == "searcher.score" and "Did you mean 'synflow'?" in str(caught.value)
    assert "jacob_cov" in caught.value.allowed


class Picky:
    """Supports chains alone."""

    name, needs_supernet, needs_batches = "picky", False, 0

    def supports(self, space: ChoiceSpace) -> bool:
        return not isinstance(space, NasBench201Space)

    def __call__(self, bench: Bench, genes: Genes) -> float:
        return 0.0


def test_an_unsupported_space_is_refused(data: Data) -> None:
    check_supported(Picky(), space_of("small_chain", data))
    with pytest.raises(UserError) as caught:
        check_supported(Picky(), space_of("nasbench201", data), "report.scores.2")
    assert caught.value.field == "report.scores.2" and caught.value.value == "picky"
    assert "spos_shufflenet, small_chain" in caught.value.allowed
    assert "For nasbench201 there are" in caught.value.fix and "naswot" in caught.value.fix


def test_spaces_without_choices_are_refused() -> None:
    template = RandWireTemplate(regime="cifar", nodes=5, channels=4, head_channels=8)
    space = RandWireSpace(template, (WattsStrogatz(k=4, p=0.75),), (0, 1))
    with pytest.raises(UserError) as caught:
        check_supported(find_score("naswot"), space)
    assert all(kind in caught.value.allowed for kind in KINDS)


# The suite sees what it is for ----------------------------------------------------------------------


class Misbehaving:
    name, needs_supernet, needs_batches = "misbehaving", True, 0

    def __init__(self, way: str) -> None:
        self.way, self.calls = way, 0

    def supports(self, space: ChoiceSpace) -> bool:
        return True

    def __call__(self, bench: Bench, genes: Genes) -> float:
        supernet = bench.supernet
        assert supernet is not None
        self.calls += 1
        weight = supernet.head.classifier.weight
        if self.way == "counts":
            return float(self.calls)
        if self.way == "draws":
            torch.rand(1)
        if self.way == "nan":
            return float("nan")
        if self.way == "tensor":
            return weight.sum()  # type: ignore[return-value]
        if self.way == "weights":
            with torch.no_grad():
                weight.mul_(-1).mul_(-1).add_(1e-7)
        if self.way == "statistics":
            with torch.no_grad():
                supernet(bench.batch(0)[0], genes)
        if self.way == "gradients":
            with torch.enable_grad():
                weight.sum().backward()
        if self.way == "mode":
            supernet.eval()
        return float(sum(genes)) if sum(genes) > 3 or self.way == "dead" else WORST


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("counts", "when asked again"),
        ("draws", "global random state"),
        ("nan", "no finite float"),
        ("tensor", "no finite float"),
        ("weights", "head.classifier.weight"),
        ("statistics", "running_mean"),
        ("gradients", "gradients left behind"),
        ("mode", "not restored"),
        ("dead", "not the worst"),
    ],
)
def test_the_suite_sees(way: str, words: str, data: Data) -> None:
    bench = bench_of("nasbench201", data)
    with pytest.raises(AssertionError, match=words):
        check_score(Misbehaving(way), bench, *live_and_dead(bench.space))


def test_the_suite_lets_the_good_pass(data: Data) -> None:
    bench = bench_of("nasbench201", data)
    check_score(Misbehaving("not at all"), bench, *live_and_dead(bench.space))
