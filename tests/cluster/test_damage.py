"""`damage_report`: of which candidate, from which weights, and at what price."""

import shutil
from pathlib import Path

import pytest
from rich.console import Console

from cluster.checkpoints import CheckpointStore
from cluster.damage import damage_report
from cluster.grid import Grid
from cluster.report import rank
from cluster.run import Run
from cluster.trial import candidate_folder
from networks.errors import UserError
from tests.cluster.rows import METRIC
from trainers.training import Trainer


@pytest.fixture
def run(undisturbed: Grid, tmp_path: Path) -> Run:
    """The finished search, moved to another place."""
    shutil.copytree(undisturbed.run.folder, tmp_path / "small-001")
    return Run(tmp_path / "small-001")


def test_the_trained_weights_are_studied_with_one_evaluation_a_removal(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = rank(run.ledger.rows(), METRIC)[0]
    evaluations = 0
    real_evaluate, real_newest = Trainer.evaluate, CheckpointStore.newest
    loads: list[Path] = []

    def evaluate(self: Trainer, split: str) -> dict[str, float]:
        nonlocal evaluations
        evaluations += 1
        return real_evaluate(self, split)  # type: ignore[arg-type]

    def newest(self: CheckpointStore) -> object:
        loads.append(self.folder)
        return real_newest(self)

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    monkeypatch.setattr(CheckpointStore, "newest", newest)
    found = damage_report("small-001", best.candidate.id, run.folder.parent, Console(quiet=True))
    assert found["undamaged"] == best.metrics[METRIC]
    assert evaluations == len(found["removals"]) + 1
    assert loads == [candidate_folder(run.folder, best.candidate)]
    assert Path(found["picture"]).is_relative_to(run.folder)


@pytest.mark.parametrize("left", ["nothing", "damaged files"])
def test_without_a_usable_checkpoint_nothing_is_studied(run: Run, left: str) -> None:
    """Untrained weights would give figures too."""
    best = rank(run.ledger.rows(), METRIC)[0]
    for file in candidate_folder(run.folder, best.candidate).iterdir():
        file.unlink() if left == "nothing" else file.write_bytes(b"")
    with pytest.raises(UserError, match="a candidate with a checkpoint"):
        damage_report("small-001", best.candidate.id, run.folder.parent, Console(quiet=True))
    assert not list(run.pictures.glob("damage*"))
