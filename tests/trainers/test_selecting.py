"""What a search may see of its data: three disjoint splits, and never a test image (NAT spec, check 17)."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.recipe_spaces import NasBench201Section
from cluster.replica import Replica, ReplicaJob, ScoringSettings
from networks.errors import UserError
from trainers.data import DataSettings, Selecting, open_data
from trainers.data.split import choose_splits
from trainers.data.testing import check_data
from trainers.one_shot_settings import OneShotSettings

REAL = Path(os.environ.get("WEFT_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


def labels_of(name: str) -> torch.Tensor:
    if not (REAL / name).is_file():
        pytest.skip(f"no {name}: set WEFT_DATA to the folder with the real sets")
    with np.load(REAL / name, allow_pickle=False) as file:
        return torch.from_numpy(file["label"].astype(np.int64))


def test_splits_of_cifar10() -> None:
    """40 % of the training images for the weights, 60 % for the policy, the set's own for the test."""
    own = {
        "train": torch.cat([labels_of(f"cifar10_jpeg_train_{part}of2.npz") for part in (1, 2)]),
        "test": labels_of("cifar10_jpeg_test.npz"),
    }
    splits = choose_splits(own, [str(name) for name in range(10)], DataSettings(validation=0.6))  # type: ignore[arg-type]
    assert {name: len(one.positions) for name, one in splits.items()} == {
        "train": 20_000, "validation": 30_000, "test": 10_000,
    }  # fmt: skip
    weights, policy = splits["train"], splits["validation"]
    assert weights.part == policy.part == "train" and splits["test"].part == "test"
    assert not set(weights.positions.tolist()) & set(policy.positions.tolist())
    for chosen in (weights, policy):
        shares = torch.bincount(own["train"][chosen.positions]).double() / len(chosen.positions)
        torch.testing.assert_close(shares, torch.full((10,), 0.1, dtype=torch.float64), atol=1e-4, rtol=0)


def test_test_images_are_not_there() -> None:
    data = open_data(DataSettings(limit=300))
    assert data.sizes["test"]
    seen = Selecting(data)
    check_data(seen)
    assert seen.sizes == {**data.sizes, "test": 0} and seen.digest == data.digest
    for moved in (seen, seen.to("cpu")):
        with pytest.raises(UserError, match=r"split.*test.*train or validation"):
            next(iter(moved.batches("test", 10)))


def test_a_score_that_reads_test_images_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates that it scores have failed, and say why."""
    job = ReplicaJob(
        space=NasBench201Section(channels=4, cells=1),
        data=DataSettings(limit=300),
        supernet=OneShotSettings(steps=1, batch_size=16),
        scoring=ScoringSettings(names=("accuracy_unrecalibrated",), batch_size=16),
        seed=0,
    )
    replica = Replica(job)
    genes = (0, 1, 2, 3, 4, 0)
    (fair,) = replica.score([genes])
    assert fair.metrics

    def leaking(self: object) -> object:
        return self.data.batches("test", 16)  # type: ignore[attr-defined]

    monkeypatch.setattr("trainers.scores.score.Bench.validation", property(leaking))
    (found,) = replica.score([(1, 1, 2, 3, 4, 0)])
    assert not found.metrics and "while candidates are selected" in found.reason
