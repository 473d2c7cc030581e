"""What a driver says of its search: in the folder, in `weft status`, to Prometheus."""

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from rich.console import Console

from cluster import vitals
from cluster.experiment import Place, search
from cluster.grid import drive_local
from cluster.pool import Crew
from cluster.run import Run
from cluster.search_messages import SearchReport
from cluster.status import Watched, status_table
from cluster.tracker import WriterProcess
from cluster.vitals import GAUGES, Monitor, Vitals, vitals_of
from tests.cluster.choices import new_search, tiny_recipe
from tests.cluster.commands import ROOT, private_environment
from tests.cluster.mlflow_server import free_port
from tests.cluster.rows import commit, row
from tests.cluster.searches import new_grid, small_recipe


def test_it_is_said_every_few_seconds_and_when_the_stage_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(new_search(tiny_recipe(tmp_path / "runs")).folder)
    shown: list[Vitals] = []
    monitor = Monitor(run, shown.append)
    assert vitals_of(run) is None
    monitor.heard(Vitals(stage="training", step=1, steps=9))
    monitor.heard(Vitals(stage="training", step=2, steps=9))
    monitor.heard(Vitals(stage="search", asked=1, planned=4))
    commit(run.ledger, [row(0)])
    monkeypatch.setattr(vitals, "EVERY_S", 0.0)
    monitor.heard(Vitals(stage="search", asked=2, planned=4))
    assert [(one.stage, one.step, one.asked, one.outbox) for one in shown] == [
        ("training", 1, 0, 0), ("search", 0, 1, 0), ("search", 0, 2, 1),
    ]  # fmt: skip
    assert vitals_of(run) == shown[-1]
    assert abs(shown[-1].time / 1000 - time.time()) < 60
    (run.work / vitals.FILE).write_text('{"stage"')
    assert vitals_of(run) is None, "one that another version of weft, or a power cut, left"


def test_a_report_of_a_search_says_who_works() -> None:
    report = SearchReport(stage="search", asked=5, planned=9, best=0.5, crew=Crew(3, 2, 1))
    again = SearchReport.model_validate_json(report.model_dump_json())
    assert again.vitals() == Vitals(
        stage="search", asked=5, planned=9, best=0.5, replicas=3, machines=2, deaths=1
    )


def test_a_grid_counts_those_that_train(tmp_path: Path) -> None:
    grid = new_grid(small_recipe(tmp_path / "runs"))
    found: list[Vitals] = []
    grid.reports.append(lambda _: found.append(grid.vitals()))
    drive_local(grid)
    assert {(one.replicas, one.machines, one.deaths) for one in found} == {(1, 1, 0)}
    rows = list(grid.run.ledger.rows())
    last = grid.vitals()
    assert last.asked == last.planned == len({one.candidate.id for one in rows})
    assert last.best == max(one.metrics[grid.search.recipe.metric] for one in rows)


def test_status_tells_it_while_somebody_drives(tmp_path: Path) -> None:
    run = new_grid(small_recipe(tmp_path / "runs")).run
    Monitor(run).heard(Vitals(stage="grid", replicas=5, machines=3, deaths=2))
    assert Watched(run).look().replicas is None, "nobody works any more"
    with run.lock():
        found = Watched(run).look()
        assert (found.replicas, found.machines, found.deaths) == (5, 3, 2)
        console = Console(width=200, record=True)
        console.print(status_table([found]))
        assert "5 on 3 machines, 2 died" in console.export_text()


def test_a_search_says_it_without_being_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WriterProcess, "start", lambda self: None)
    monkeypatch.setattr(WriterProcess, "drain", lambda *of: True)
    outcome = search(tiny_recipe(tmp_path / "runs"), Place(local=True), Console(quiet=True))
    said = vitals_of(outcome.run)
    assert said is not None
    assert (said.stage, said.replicas, said.machines) == ("done", 1, 1)
    assert said.best is not None and said.asked > 0


SCRAPED = """
import ray, sys, time
from pathlib import Path
from cluster.run import Run
from cluster.vitals import RayMetrics, Vitals
port = int(sys.argv[1])
ray.init("local", num_cpus=1, include_dashboard=False, _metrics_export_port=port,
         logging_level="ERROR", log_to_driver=False)
show = RayMetrics(Run(Path("wiring-007")))
show(Vitals(stage="search", asked=7, planned=9, step=4, replicas=2, machines=1, deaths=3, outbox=5))
print(ray.util.get_node_ip_address(), flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_prometheus_finds_it_at_the_node() -> None:
    port = free_port()
    with private_environment() as environment, subprocess.Popen(
        [sys.executable, "-c", SCRAPED, str(port)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdin is not None
        try:
            host = process.stdout.readline().strip()
            found = scraped(f"http://{host}:{port}/metrics")
        finally:
            process.stdin.close()
            process.wait(60)
    values = {"asked": 7, "planned": 9, "step": 4, "replicas": 2, "machines": 1, "deaths": 3, "outbox": 5}
    assert found == {f"ray_{GAUGES[field][0]}": float(value) for field, value in values.items()}


def scraped(address: str) -> dict[str, float]:
    """Metrics of the run, once Ray's agent has them."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            lines = []
        found = [line for line in lines if 'run="wiring-007"' in line]
        if len(found) == 7:
            return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in found}
        time.sleep(0.5)
    raise AssertionError(f"nothing of the run at {address}; {os.linesep.join(lines[:20])}")
