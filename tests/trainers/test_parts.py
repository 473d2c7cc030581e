"""Scores on some of the validation batches: NAT's rewards, alike for all that are compared (spec 4.3)."""

import pytest

from networks.architecture import Shape
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space
from networks.supernet import build_supernet
from trainers.data import DataSettings, open_data
from trainers.scores import find_score
from trainers.scores.score import Bench

SPACE = NasBench201Space(NasBench201Settings(channels=4, cells=1), Shape(1, 8, 8), 10)


@pytest.fixture
def bench() -> Bench:
    data = open_data(DataSettings(validation=110, limit=400))
    return Bench(SPACE, data, seed=3, batch_size=20, supernet=build_supernet(SPACE, 0))


def labels(bench: Bench) -> list[list[int]]:
    return [y.tolist() for _, y in bench.validation]


def test_a_part_is_some_whole_batches_in_order(bench: Bench) -> None:
    whole = labels(bench)
    assert [len(batch) for batch in whole] == [20] * 5 + [10]
    seen = set()
    for number in range(40):
        bench.part = (number, 2)
        some = labels(bench)
        assert some == labels(bench), "another part in the second look"
        places = [whole.index(batch) for batch in some]
        assert len(places) == 2 and places == sorted(places)
        seen.update(places)
    assert seen == set(range(6)), "other numbers, other batches"
    bench.part = (0, 99)
    assert labels(bench) == whole
    bench.part = None
    assert labels(bench) == whole


@pytest.mark.parametrize("name", ["accuracy", "loss", "accuracy_unrecalibrated"])
def test_scores_are_of_the_part(bench: Bench, name: str) -> None:
    """And of this one, when another was looked at before; the mean over parts of one batch is the whole."""
    score, genes = find_score(name), (2, 1, 3, 0, 1, 2)
    bench.part = None
    whole = score(bench, genes)
    found = {}
    for number in range(60):
        bench.part = (number, 1)
        (batch,) = labels(bench)
        found[tuple(batch)] = score(bench, genes), len(batch)
    assert len(found) == 6 and len({value for value, _ in found.values()}) > 1
    mean = sum(value * size for value, size in found.values()) / sum(size for _, size in found.values())
    assert mean == pytest.approx(whole, rel=1e-5, abs=1e-6)
    bench.part = None
    assert score(bench, genes) == whole
