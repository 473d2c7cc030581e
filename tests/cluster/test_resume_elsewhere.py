"""A search that goes on with another number of replicas, or none of Ray's, ends as if nothing had been."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from cluster.run import Run
from cluster.vitals import vitals_of
from tests.cluster.choices import write_tiny
from tests.cluster.commands import private_environment, run_weft, weft_command
from tests.cluster.test_recovery import digests

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHANGES = {
    "supernet": {"steps": 400, "batch_size": 16, "paths_per_step": 4},
    "searcher": {"kind": "regularised_evolution", "budget": 300, "population": 12, "sample": 3},
    "baseline": False,
    "round": 5,
    "in_flight": 10,
}


def test_two_then_four_then_one_then_none(tmp_path: Path) -> None:
    """Killed in the middle of training on two replicas, of training on four, and of the search on one."""
    write_tiny(tmp_path, **CHANGES)
    with private_environment() as env:
        alone = run_weft(
            "search", "tiny.yaml", "--local", "--set", "storage=alone", cwd=tmp_path, env=env, timeout=400
        )
        assert alone.returncode == 0, alone.stderr
        run = Run(tmp_path / "runs" / "tiny-001")
        kill_at(run, tmp_path, env, replicas=2, stage="training", done=100)
        kill_at(run, tmp_path, env, replicas=4, stage="training", done=200)
        kill_at(run, tmp_path, env, replicas=1, stage="search", done=10)
        last = run_weft("search", "tiny.yaml", "--local", "--resume", cwd=tmp_path, env=env)
        assert last.returncode == 0, last.stderr
    assert digests(run) == digests(Run(tmp_path / "alone" / "tiny-001"))


def kill_at(run: Run, folder: Path, env: dict[str, str], *, replicas: int, stage: str, done: int) -> None:
    """Start or go on with the search, and kill its driver at this step, or with so many candidates told.
    The ledger says how many; vitals are too seldom for a search of seconds."""
    settings = [f"resources.workers={replicas}", f"resources.cpus={1 if replicas == 1 else 0.5}"]
    options = [word for setting in settings for word in ("--set", setting)]
    again = ["--resume"] if run.folder.exists() else []
    with (folder / "driver.log").open("w") as log:
        driver = subprocess.Popen(
            weft_command("search", "tiny.yaml", *options, *again),
            cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        end = time.monotonic() + 150
        while True:
            assert driver.poll() is None, (folder / "driver.log").read_text()
            assert time.monotonic() < end, "it takes too long"
            if stage == "search":
                so_far = sum(1 for _ in run.ledger.rows()) if run.folder.exists() else 0
            else:
                said = vitals_of(run)
                there = said is not None and (said.replicas, said.stage) == (replicas, stage)
                so_far = said.step if said is not None and there else 0
            if so_far >= done:
                break
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
    finally:
        driver.kill()
        driver.wait()
