"""What `describe` measures: the trainer's own step, on a candidate of middling cost."""

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

import cluster.describe
from cluster.describe import describe, measure_step
from cluster.preparation import Search
from networks.architecture import Architecture
from networks.errors import UserError
from tests.cluster.searches import small_recipe
from trainers.training import Trainer


def test_the_candidate_of_median_macs_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(tmp_path)
    measured: list[Architecture] = []

    def measure(architecture: Architecture, *_: object) -> tuple[float, str]:
        measured.append(architecture)
        return 0.5, "cpu"

    monkeypatch.setattr(cluster.describe, "measure_step", measure)
    assert describe(recipe)["seconds_per_1000_images"] == 500
    macs = [entrant.cost.macs for entrant in Search.of(recipe).entrants]
    assert min(macs) < statistics.median_high(macs) == measured[0].complexity().macs
    describe(recipe, graphs=3)  # the drawn graphs are for the table alone
    assert measured[1] == measured[0]


def test_topologies_are_described_as_they_are_trained(tmp_path: Path) -> None:
    space = {
        "kind": "topology", "nodes": 5, "stages": 2, "channels": 2, "seeds": 2,
        "topologies": [{"topology": "plain"}, {"topology": "complete", "edges": [{"penalty": "none"}]}],
    }  # fmt: skip
    recipe = small_recipe(tmp_path, space=space)
    found = describe(recipe)
    assert [one["setting"] for one in found["settings"]] == ["plain", "complete, learned"]
    assert [one["graphs"] for one in found["settings"]] == [2, 2] and found["stage_nodes"] == [3, 3]
    assert found["settings"][0]["macs_mean"] == found["settings"][1]["macs_mean"]
    with pytest.raises(UserError, match="--graphs"):
        describe(recipe, graphs=3)


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"epochs": 4, "batch_size": 16, "clip_norm": 1.0, "lr": 1e6}},
        {"training": {"epochs": 4, "precision": "mixed"}, "resources": {"gpus": 1}},
    ],
    ids=["clipped", "mixed"],
)
def test_a_whole_training_step_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Forward, loss, backward and optimiser, with the recipe's settings where this machine has them."""
    recipe = small_recipe(tmp_path, **changes)
    trainers: list[Trainer] = []

    class Watched(Trainer):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            trainers.append(self)

    monkeypatch.setattr(cluster.describe, "Trainer", Watched)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    architecture = recipe.space.build((1, 8, 8), 10).decode((0, 0, 0))
    threads = torch.get_num_threads()
    seconds, device = measure_step(architecture, recipe, recipe.training)
    assert 0 < seconds < 1 and device == "cpu"
    assert torch.get_num_threads() == threads
    (trainer,) = trainers
    assert trainer.step == cluster.describe.PROBE_STEPS
    assert len(trainer.optimizer.state) == len(list(trainer.network.parameters()))
    assert trainer.settings.clip_norm == recipe.training.clip_norm
