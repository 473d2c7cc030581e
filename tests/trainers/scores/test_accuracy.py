"""Validation accuracy and loss of a path, on recalibrated and on running statistics."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from networks.errors import UserError
from networks.liveness import WORST
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space
from networks.spaces.space import Genes
from trainers.data import Data, DataSettings, open_data
from trainers.one_shot import OneShotTrainer
from trainers.one_shot_settings import OneShotSettings
from trainers.recalibration import recalibrated
from trainers.scores import accuracy as accuracy_module
from trainers.scores import score
from trainers.scores.accuracy import Validation
from trainers.scores.score import Bench
from trainers.scores.testing import check_score

LIVE: list[Genes] = [(3, 3, 2, 1, 3, 3), (2, 3, 3, 4, 1, 2), (1, 1, 1, 1, 1, 1)]
DEAD: list[Genes] = [(0,) * 6, (3, 0, 0, 0, 0, 3)]
NAMES = ("accuracy", "loss", "accuracy_unrecalibrated")


@pytest.fixture(scope="module")
def data() -> Data:
    return open_data(DataSettings())


@pytest.fixture(scope="module")
def trainer(data: Data) -> OneShotTrainer:
    space = NasBench201Space(NasBench201Settings(channels=4, cells=1), data.image, len(data.classes))
    trainer = OneShotTrainer(space, data, OneShotSettings(steps=60, batch_size=32, lr=0.1), seed=0)
    trainer.train(60)
    return trainer


@pytest.fixture
def bench(trainer: OneShotTrainer) -> Bench:
    return Bench(
        trainer.space, trainer.data, 0, batch_size=50, supernet=trainer.supernet, initial=trainer.initial
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_scores_keep_the_promises(name: str, bench: Bench) -> None:
    check_score(Validation(name), bench, LIVE, DEAD)  # type: ignore[arg-type]


def test_many_validation_images_are_not_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Validation("loss")(bench, LIVE[0])
    monkeypatch.setattr(score, "KEPT", 0)
    other = dataclasses.replace(bench)
    assert Validation("loss")(other, LIVE[0]) == kept
    assert "_validation" not in vars(other) and "_validation" in vars(bench)


@pytest.mark.parametrize("genes", LIVE)
def test_scores_are_what_a_network_of_its_own_does(genes: Genes, bench: Bench) -> None:
    """Held to the extracted network, its statistics averaged in another way, all images in one batch."""
    assert bench.supernet is not None
    network = bench.supernet.extract(genes)
    x, y = (torch.cat(some) for some in zip(*bench.validation, strict=True))
    with torch.no_grad():
        plain = network.eval()(x)
        with recalibrated(network, [bench.batch(number)[0] for number in range(3)]) as forward:
            logits = forward(x)
    hits = (logits.argmax(1) == y).float().mean().item()
    assert Validation("accuracy", 3)(bench, genes) == pytest.approx(hits, abs=1e-6)
    assert Validation("loss", 3)(bench, genes) == pytest.approx(-F.cross_entropy(logits, y).item(), abs=1e-4)
    hits = (plain.argmax(1) == y).float().mean().item()
    assert Validation("accuracy_unrecalibrated")(bench, genes) == pytest.approx(hits, abs=1e-6)


def test_training_shows(bench: Bench) -> None:
    """Ten classes; what recalibration brings is seen on the average of paths."""
    values = {name: [Validation(name)(bench, genes) for genes in LIVE] for name in NAMES}  # type: ignore[arg-type]
    assert max(values["accuracy"]) > 0.3 and max(values["loss"]) > -2.2
    assert sum(values["accuracy"]) > sum(values["accuracy_unrecalibrated"])


def test_accuracy_and_loss_share_a_pass(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[Genes] = []

    def counted(network, batches, genes):  # type: ignore[no-untyped-def]
        passes.append(genes)
        return recalibrated(network, batches, genes)

    monkeypatch.setattr(accuracy_module, "recalibrated", counted)
    accuracy, loss = Validation("accuracy"), Validation("loss")
    first = [(accuracy(bench, genes), loss(bench, genes)) for genes in LIVE]
    assert passes == LIVE
    assert [(accuracy(bench, genes), loss(bench, genes)) for genes in LIVE] == first
    passes.clear()
    accuracy(bench, LIVE[0]), Validation("loss", 2)(bench, LIVE[0])
    assert len(passes) == 2  # other batches, another pass


def test_a_bench_after_more_training_remembers_nothing(data: Data) -> None:
    space = NasBench201Space(NasBench201Settings(channels=2, cells=1), data.image, len(data.classes))
    trainer = OneShotTrainer(space, data, OneShotSettings(steps=10, batch_size=16), seed=0)
    values = []
    for _ in range(2):
        trainer.train(5)
        values.append(Validation("loss")(Bench(space, data, 0, 50, supernet=trainer.supernet), LIVE[0]))
    assert values[0] != values[1]


def test_no_finite_loss_is_the_worst(data: Data) -> None:
    space = NasBench201Space(NasBench201Settings(channels=2, cells=1), data.image, len(data.classes))
    trainer = OneShotTrainer(space, data, OneShotSettings(steps=1, batch_size=16), seed=0)
    with torch.no_grad():
        trainer.supernet.head.classifier.weight.fill_(torch.nan)
    bench = Bench(space, data, 0, 50, supernet=trainer.supernet)
    assert [Validation(name)(bench, LIVE[0]) for name in NAMES] == [WORST] * 3  # type: ignore[arg-type]


def test_what_cannot_be_used(trainer: OneShotTrainer) -> None:
    with pytest.raises(UserError, match="batches"):
        Validation("accuracy", 0)
    with pytest.raises(UserError, match="'loss' cannot be used"):
        Validation("loss")(Bench(trainer.space, trainer.data, 0), LIVE[0])
