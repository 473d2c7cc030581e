"""The command line as a user meets it: tables, JSON, progress, interruption."""

import io
import json
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import cluster.experiment
import cluster.grid
import cluster.progress
from cluster.experiment import _drain
from cluster.grid import Grid
from cluster.preparation import Search
from cluster.progress import Progress
from cluster.recipe import Recipe
from cluster.run import Run
from cluster.tables import ranking_table
from cluster.tracker import WriterProcess
from cluster.trial import Report
from tests.cluster.commands import weft, write_recipe
from tests.cluster.searches import raise_after, small_recipe

# Means of params and MACs over 100 graphs must lie within what the paper gives (Tables 2 to 4, WS(4, 0.75)).
PUBLISHED = {
    "randwire_imagenet_small": ((5.6e6, 0.1e6), (583e6, 6.2e6)),
    "randwire_imagenet_regular_109": ((31.9e6, 0.66e6), (4.0e9, 0.09e9)),
    "randwire_imagenet_regular_154": ((61.5e6, 1.32e6), (7.9e9, 0.18e9)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small recipe and its finished run, small-001."""
    folder = tmp_path_factory.mktemp("finished")
    write_recipe(folder)
    ended = weft("search", "small.yaml", "--local", cwd=folder)
    assert ended.code == 0, ended.err
    (folder / "said.txt").write_text(ended.out)
    return folder


def test_a_search_ends_with_the_ranking_and_where_everything_is(folder: Path) -> None:
    said = (folder / "said.txt").read_text()
    lines = said.splitlines()
    assert lines[0].startswith("small-001: 6 candidates, in ")
    assert "6/6 candidates" in said
    assert all(len(line) <= 80 for line in lines if line.startswith(" "))
    places = [line.split()[0] for line in lines if line.startswith(" ") and line.split()[:1]]
    assert [place for place in places if place.isdigit()] == ["1", "2", "3", "4", "5", "6"]
    for name in ("runs/small-001/pictures/best-1.png", "runs/small-001/report.md"):
        assert name in said
        assert (folder / name).stat().st_size > 0
    assert lines[-1] == "in MLflow: weft ui runs/small-001"
    assert sum("writing" in line for line in lines) <= 2
    assert "arning" not in said


def test_show_lists_what_the_report_has(folder: Path) -> None:
    report = json.loads((folder / "runs" / "small-001" / "report.json").read_text())
    assert json.loads(weft("show", "small", "--json", cwd=folder).out) == report
    shown = weft("show", "small-001", "--limit", "2", cwd=folder)
    assert shown.out.startswith("small-001: FINISHED\n")
    assert "4 more" in shown.out
    for row in report["ranking"][:2]:
        assert row["setting"] in shown.out
        assert f"{row['params']:,}" in shown.out
        assert f"{100 * row['validation_accuracy']:.2f}" in shown.out


def test_damage_measures_every_removal(folder: Path) -> None:
    best = json.loads(weft("show", "small", "--json", cwd=folder).out)["ranking"][0]
    ended = weft("damage", "small", best["id"], "--json", cwd=folder)
    found = json.loads(ended.out)
    assert found["candidate"] == best["candidate"]
    assert found["undamaged"] == best["validation_accuracy"]
    assert {one["kind"] for one in found["removals"]} == {"node", "edge"}
    assert sum(one["kind"] == "node" for one in found["removals"]) == 12
    assert Path(found["picture"]).stat().st_size > 0
    table = weft("damage", "small", str(best["candidate"]), cwd=folder).out
    assert "nodes by out-degree" in table
    assert all(len(line) <= 80 for line in table.splitlines())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "smal-001"), ["RUN: 'smal-001'", "Did you mean 'small-001'?"]),
        (("ui", "small-002"), ["RUN: 'small-002'", "Did you mean 'small-001'?"]),
        (("damage", "small-01", "0"), ["RUN: 'small-01'", "Did you mean 'small-001'?"]),
        (("damage", "small", "6"), ["CANDIDATE: '6'", "0 to 5", "weft show small-001"]),
        (("search", "small.yaml", "--resume"), ["--resume: 'small-001'", "weft show small-001"]),
        (("search", "small.yaml", "--resume", "--set", "seed=1"), ["this one has changed", "recipe.yaml"]),
    ],
)  # fmt: skip
def test_runs_that_cannot_be_used(folder: Path, arguments: tuple[str, ...], words: list[str]) -> None:
    runs = sorted((folder / "runs").iterdir())
    ended = weft(*arguments, cwd=folder)
    assert ended.code == 2
    assert ended.out == ""
    assert all(word in ended.err for word in words), ended.err
    assert sorted((folder / "runs").iterdir()) == runs
    assert (folder / "runs" / "small-001" / "finished.json").exists()


def test_json_is_one_object_and_progress_goes_elsewhere(tmp_path: Path, no_mlflow: None) -> None:
    write_recipe(tmp_path)
    ended = weft("search", "small.yaml", "--local", "--json", "--set", "training.lr=1e30", cwd=tmp_path)
    found = json.loads(ended.out)
    assert found["run"] == "small-001"
    assert found["failed"] == found["candidates"] == 6
    # Every candidate failed, which is no success, and is told without tracebacks.
    assert ended.code == 1
    assert "every candidate failed" in ended.err
    assert all("training loss is not a number" in row["reason"] for row in found["ranking"])
    assert "Traceback" not in ended.err
    assert "6/6 candidates" in ended.err


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * ("regular" in name)) for name in PUBLISHED]
)
def test_described_sizes_are_the_published_ones(name: str, tmp_path: Path) -> None:
    ended = weft("describe", name, "--graphs", "100", "--json", cwd=tmp_path)
    found = json.loads(ended.out)
    (setting,) = found["settings"]
    assert (setting["setting"], setting["graphs"]) == ("WS(4, 0.75)", 100)
    for measure, (mean, spread) in zip(("params", "macs"), PUBLISHED[name], strict=True):
        assert abs(setting[f"{measure}_mean"] - mean) <= spread
        assert 0 < setting[f"{measure}_deviation"] < 2 * spread
    assert list(tmp_path.iterdir()) == []


def test_describe_as_a_table(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    said = weft("describe", "small.yaml", cwd=tmp_path).out
    assert said.startswith("small: 6 candidates; images (1, 8, 8), 10 classes\n")
    assert "rungs at epochs [1, 2, 4]" in said
    assert re.search(r"training takes [\d.]+ s for 1,000 images on one CPU core", said)
    assert re.search(r"about [\d.]+ hours of one worker", said)
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_ui_points_to_a_server(tmp_path: Path) -> None:
    uri = "http://127.0.0.1:9"
    Run.create(Search.of(small_recipe(tmp_path / "runs", tracking={"uri": uri})))
    assert weft("ui", "small", cwd=tmp_path).out == f"this run is in the MLflow at {uri}\n"


def test_ui_needs_a_free_port(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = weft("ui", "small", "--port", str(port), cwd=folder)
    assert ended.code == 2
    assert f"--port: {port} cannot be used; allowed: a free port" in ended.err


# Tables and progress -------------------------------------------------------------------------------------


def wide_row(place: int) -> dict[str, Any]:
    return {
        "place": place, "candidate": 1900 + place, "setting": "WS(4, 0.75)", "seed": 12, "status": "stopped",
        "epoch": 250, "validation_accuracy": 0.74712, "test_accuracy": 0.73456, "params": 61_734_123,
        "macs": 7_824_900_000, "reason": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("width", "kept"),
    [
        (120, ["7,824.90", "61,734,123", "250", "73.46", "1998", "12", "98", "74.71"]),
        (80, ["61,734,123", "250", "73.46", "1998", "12", "98", "74.71"]),
        (72, ["250", "73.46", "1998", "12", "98", "74.71"]),
        (40, ["12", "98", "74.71"]),
    ],
)
def test_narrow_tables_lose_columns_and_no_digits(width: int, kept: list[str]) -> None:
    found = {"metric": "validation_accuracy", "ranking": [wide_row(place) for place in (98, 99)]}
    console = Console(file=io.StringIO(), width=width)
    console.print(ranking_table(found, 20, console))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    row = next(line for line in lines if "74.71" in line)
    assert sorted(row.replace("WS(4, 0.75)", "").replace("stopped", "").split()) == sorted(kept)
    assert "WS(4, 0.75)" in row
    assert "…" not in "".join(lines)


def test_time_left_counts_from_the_first_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(cluster.progress.time, "monotonic", lambda: now)
    console = Console(file=io.StringIO(), width=200)
    progress = Progress(console, small_recipe(tmp_path), 6, lambda: 0)
    with progress:
        now += 100  # Ray starts
        progress.heard(Report(ask_index=0, epoch=1))
        assert progress.line().plain.endswith("epoch 1 of about 13")
        now += 10
        progress.heard(Report(ask_index=1, epoch=1))
        assert progress.line().plain.endswith("epoch 2 of about 13, 1:50 left")


class SlowWriter:
    """Says what a writer would say, in no time."""

    def __init__(self, outboxes: list[list[int]]) -> None:
        self.run, self.running, self._outboxes = Path("runs/small-001"), True, outboxes

    @property
    def outbox(self) -> int:
        return self._outboxes[0][0] if self._outboxes else 0

    def drain(self, timeout_s: float, on_wait: Callable[[int], None]) -> bool:
        if not self._outboxes:
            time.sleep(timeout_s)
            return False
        for left in self._outboxes.pop(0):
            on_wait(left)
        return not self._outboxes


def drained(writer: SlowWriter, patience: float) -> list[str]:
    console = Console(file=io.StringIO(), width=300)
    assert isinstance(writer, WriterProcess | SlowWriter)
    _drain(writer, patience, console)  # type: ignore[arg-type]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_waiting_for_mlflow_says_a_thing_once() -> None:
    assert drained(SlowWriter([[3, 3, 3, 2], [2, 2, 1], [0, 0, 0]]), 60) == [
        "writing to MLflow: 3 segments left"
    ]


def test_giving_up_on_mlflow_says_what_to_do() -> None:
    (line,) = drained(SlowWriter([]), 0.1)
    assert "weft sync small-001" in line
    assert "nothing is lost" in line


# Interruption ----------------------------------------------------------------------------------------------


def interrupted_drive(reports: int) -> Callable[[Grid], None]:
    """The local driver with Ctrl-C after so many reports."""

    def drive(grid: Grid) -> None:
        grid.reports.append(raise_after(KeyboardInterrupt, reports))
        cluster.grid.drive_local(grid)

    return drive


def test_ctrl_c_keeps_everything_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Grid, no_mlflow: None
) -> None:
    write_recipe(tmp_path)
    command = ("search", "small.yaml", "--set", "data={name: digits, limit: 300}", "--local")
    with monkeypatch.context() as patch:
        patch.setattr(cluster.experiment, "drive_local", interrupted_drive(8))
        ended = weft(*command, cwd=tmp_path)
    assert ended.code == 130
    advice = "weft search small.yaml --set 'data={name: digits, limit: 300}' --local --resume"
    assert ended.err.splitlines()[-1] == (
        f"small-001 is stopped; all finished epochs are kept. To go on: {advice}"
    )
    run = Run(tmp_path / "runs" / "small-001")
    assert run.ending == "KILLED"
    assert len(run.ledger.segments()) == 1
    again = weft(*command, "--resume", "--json", cwd=tmp_path)
    assert json.loads(again.out)["ledger_digest"] == undisturbed.run.ledger.digest()
    assert "resumed: 3 candidates are final already" in again.err
    assert run.ending == "FINISHED"


def test_ctrl_c_before_the_start_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(recipe: Recipe) -> None:
        raise KeyboardInterrupt

    write_recipe(tmp_path)
    monkeypatch.setattr(Search, "of", stop)
    ended = weft("search", "small.yaml", "--local", cwd=tmp_path)
    assert ended.code == 130
    assert ended.err == "stopped before the search began; nothing was written\n"
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


@pytest.mark.parametrize("moment", ["write_report", "_drain"])
def test_ctrl_c_after_the_last_candidate_does_not_undo_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Grid, no_mlflow: None, moment: str
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    write_recipe(tmp_path)
    monkeypatch.setattr(cluster.experiment, moment, stop)
    ended = weft("search", "small.yaml", "--local", cwd=tmp_path)
    assert ended.code == 130
    assert "small-001 is complete" in ended.err
    assert "weft sync runs/small-001" in ended.err
    run = Run(tmp_path / "runs" / "small-001")
    assert run.ending == "FINISHED"
    assert run.ledger.digest() == undisturbed.run.ledger.digest()


@pytest.mark.parametrize("finishes", [True, False], ids=["report", "report and ending"])
def test_a_report_without_room_is_written_when_the_search_is_resumed(
    finishes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_mlflow: None, undisturbed: Grid
) -> None:
    """Nor need there be room for how it ended."""

    def fail(*_: object, **__: object) -> None:
        raise OSError("no room for pictures")

    write_recipe(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(cluster.experiment, "write_report", fail)
        if not finishes:
            patch.setattr(Run, "finish", fail)
        ended = weft("search", "small.yaml", "--local", cwd=tmp_path)
    assert ended.code == 2 and "no room for pictures" in ended.err and "Traceback" not in ended.err
    run = Run(tmp_path / "runs" / "small-001")
    assert (
        run.ending == ("FAILED" if finishes else None)
        and run.ledger.digest() == undisturbed.run.ledger.digest()
    )
    assert weft("search", "small.yaml", "--local", "--resume", cwd=tmp_path).code == 0
    assert run.ending == "FINISHED" and (run.folder / "report.md").exists()
    assert run.ledger.digest() == undisturbed.run.ledger.digest()
