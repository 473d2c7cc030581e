"""How long a search stands still when something dies, and that it takes what comes."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from cluster.run import Run
from cluster.vitals import Vitals, vitals_of
from tests.chaos.ray_nodes import REPLICA, TRIAL, Node, RayNodes
from tests.cluster.commands import ROOT, private_environment, run_weft, weft_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LIMITS = {"survivor": 2.0, "single": 15.0, "machine": 10.0, "silent": 10.0}


def test_how_long_nothing_is_trained() -> None:
    """It prints the seconds: -rP."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.recovering"],
        cwd=ROOT, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {case: seconds for case, (seconds,) in json.loads(done.stdout.splitlines()[-1]).items()}
    print(found)
    assert found.keys() == LIMITS.keys()
    late = {case: seconds for case, seconds in found.items() if seconds > LIMITS[case]}
    assert not late


ELASTIC = {
    "version": 1, "name": "elastic",
    "space": {"kind": "small_chain", "channels": 4, "head_channels": 4},
    "data": {"name": "digits"},
    "supernet": {"steps": 1500, "batch_size": 16, "paths_per_step": 4},
    "searcher": {"kind": "regularised_evolution", "budget": 60, "population": 10, "sample": 3},
    "score": {"kind": "computed", "names": ["accuracy"], "batch_size": 64}, "round": 10, "baseline": False,
}  # fmt: skip


@contextmanager
def cluster(tmp_path: Path) -> Iterator[tuple[RayNodes, dict[str, str]]]:
    """Three nodes of a CPU each."""
    with private_environment(RAY_AUTH_MODE="disabled") as env:
        nodes = RayNodes(env, tmp_path)
        try:
            nodes.ready()
            yield nodes, env
        finally:
            nodes.close()


def digests(run: Run) -> tuple[str, str]:
    newest = sorted((run.folder / "supernet").glob("*.json"), key=lambda path: path.name)[-1]
    return run.ledger.digest(), json.loads(newest.read_text())["weights"]


def test_machines_that_come_and_go_are_used_and_change_nothing(tmp_path: Path) -> None:
    """A search that needs one replica and takes up to three: a machine goes, and another comes."""
    recipe = tmp_path / "elastic.yaml"
    recipe.write_text(yaml.safe_dump(ELASTIC))
    with cluster(tmp_path) as (nodes, env):
        alone = run_weft(
            "search", str(recipe), "--local", "--set", "storage=alone", cwd=tmp_path, env=env, timeout=400
        )
        assert alone.returncode == 0, alone.stderr
        ranged = ["--set", "resources.workers=1", "--set", "resources.max_workers=3"]
        command = weft_command("search", str(recipe), "--address", nodes.address, *ranged)
        with (tmp_path / "driver.log").open("w") as log:
            driver = subprocess.Popen(
                command, cwd=tmp_path, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        try:
            run = Run(tmp_path / "runs" / "elastic-001")
            said = [await_crew(run, 3, driver)]
            nodes.kill(spare_node(nodes))
            said.append(await_crew(run, 2, driver))
            nodes.fill_up()
            said.append(await_crew(run, 3, driver))
            assert driver.wait(300) == 0, (tmp_path / "driver.log").read_text()
        finally:
            driver.kill()
            driver.wait()
    assert [one.machines for one in said] == [3, 2, 3] and said[-1].deaths == 1
    assert all(one.stage == "training" for one in said), "it was over before: make it longer"
    assert digests(run) == digests(Run(tmp_path / "alone" / "elastic-001"))


def await_crew(run: Run, replicas: int, driver: "subprocess.Popen[bytes]") -> Vitals:
    end = time.monotonic() + 120
    while time.monotonic() < end and driver.poll() is None:
        if (run.folder / "run.json").exists() and (said := vitals_of(run)) and said.replicas == replicas:
            return said
        time.sleep(0.2)
    raise AssertionError(f"there were never {replicas} replicas")


def spare_node(nodes: RayNodes) -> Node:
    """One whose replica may go: not the head, nor where the search itself is."""
    for node in nodes.alive[1:]:
        if nodes.workers(REPLICA, node) and not nodes.workers(TRIAL, node):
            return node
    raise AssertionError("no node has a replica alone")
