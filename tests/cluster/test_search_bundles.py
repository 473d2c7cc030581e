"""What a search over choices asks of Ray: a share for each replica, and one for what measures latency."""

from pathlib import Path

import pytest

pytest.importorskip("ray")

from cluster.tune_search import bundles, checked_replicas
from networks.errors import UserError
from tests.cluster.choices import tiny_recipe

LATENCY = [{"metric": "accuracy"}, {"metric": "latency_ms", "maximise": False}]


@pytest.mark.parametrize(
    ("shares", "workers", "number"), [(4, None, 2), (3, None, 2), (2, None, 1), (4, 1, 1), (3, 2, 2)]
)
def test_a_share_is_left_for_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: int, workers: int | None, number: int
) -> None:
    """Of as many halves of GPUs; two paths a step."""
    for module in ("cluster.tune_search.rooms", "cluster.members.rooms"):
        monkeypatch.setattr(module, lambda share: shares)
    gpus = {"workers": workers, "gpus": 0.5}
    recipe = tiny_recipe(tmp_path, resources=gpus, objectives=LATENCY)
    assert checked_replicas(recipe) == number
    assert bundles(recipe, number) == [{"CPU": 0.0, "GPU": 0.5}, *([{"CPU": 1.0, "GPU": 0.5}] * number)]
    plain = tiny_recipe(tmp_path, resources=gpus)
    assert bundles(plain, 1) == [{"CPU": 0.0}, {"CPU": 1.0, "GPU": 0.5}]
    cpu = tiny_recipe(tmp_path, objectives=LATENCY)
    assert bundles(cpu, 1) == [{"CPU": 0.0}, {"CPU": 1.0}]


@pytest.mark.parametrize(("shares", "workers"), [(1, None), (1, 1), (2, 2)])
def test_no_share_left_for_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: int, workers: int | None
) -> None:
    for module in ("cluster.tune_search.rooms", "cluster.members.rooms"):
        monkeypatch.setattr(module, lambda share: shares)
    recipe = tiny_recipe(tmp_path, resources={"workers": workers, "gpus": 1}, objectives=LATENCY)
    with pytest.raises(UserError, match="Latency is measured beside the replicas") as caught:
        checked_replicas(recipe)
    assert caught.value.field == "resources.gpus"
