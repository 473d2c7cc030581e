"""The MLflow view of a search: whole, once, and no burden on the search."""

import csv
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow.artifacts
import pandas
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import cluster.writer
from cluster.ledger import Ledger
from cluster.mlflow_view import flatten
from cluster.run import Run
from cluster.secrets import clean, redacted, without_secrets
from cluster.shrinking import RUNGS, OperatorScore, Rung, Rungs
from cluster.standing import Standing
from cluster.tracker import Cursor, WriterProcess, check_tracking
from cluster.writer import Writer, only_writer
from networks.errors import UserError
from networks.spaces.narrowed import Operator
from tests.cluster.rows import commit as append
from tests.cluster.threads import wait_for
from tests.cluster.tracked import (
    CREATED,
    SECRET,
    SEGMENTS,
    artifacts,
    client_of,
    commit,
    describe_run,
    failed_row,
    finish,
    ident,
    make_row,
    parent_id,
    read_back,
)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that MLflow has set up: the first use of a new one takes seconds."""
    file = tmp_path_factory.mktemp("template") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments(max_results=1)
    return file


@pytest.fixture
def new_run(tmp_path: Path, migrated: Path) -> Callable[..., Path]:
    """Makes run folders, each with a database of its own."""

    def make(name: str = "first", **more: object) -> Path:
        run = tmp_path / name
        run.mkdir()
        shutil.copy(migrated, run / "mlflow.db")
        return describe_run(run, f"sqlite:///{run / 'mlflow.db'}", **more)

    return make


def artifact(run: Path, name: str) -> Path:
    uri = f"sqlite:///{run / 'mlflow.db'}"
    return Path(
        mlflow.artifacts.download_artifacts(run_id=parent_id(run), artifact_path=name, tracking_uri=uri)
    )


class Unruly:
    """An MLflow client whose `at`-th write fails, before or after it has done its work."""

    WRITES = (
        "create_experiment",
        "create_run",
        "log_batch",
        "set_terminated",
        "log_text",
        "log_artifact",
        "set_tag",
    )

    def __init__(self, uri: str, at: int, after: bool, error: BaseException) -> None:
        self.inner, self.at, self.after, self.error, self.writes = MlflowClient(uri), at, after, error, 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if name not in self.WRITES:
            return method

        def call(*values: Any, **named: Any) -> Any:
            self.writes += 1
            if self.writes == self.at and not self.after:
                raise self.error
            result = method(*values, **named)
            if self.writes == self.at:
                raise self.error
            return result

        return call


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


def test_parent_and_children_hold_what_the_ledger_says(new_run: Callable[..., Path]) -> None:
    run = new_run()
    commit(run)
    finish(run)
    assert Writer(run).serve() == 0
    seen = read_back(run)
    assert set(seen) == {"parent", *(ident(ask) for ask in range(5))}

    winner = seen[ident(0)]
    assert winner["name"] == "WS(4, 0.75) seed 0"
    assert winner["status"] == "FINISHED"
    assert {
        "generator": "WS",
        "setting": "WS(4, 0.75)",
        "k": "4",
        "p": "0.75",
        "seed": "0",
    }.items() <= winner["params"].items()
    assert winner["params"]["architecture"] == "0" * 64
    assert winner["tags"]["genes"] == "[0,1,0]"
    assert (winner["tags"]["status"], winner["tags"]["place"]) == ("ok", "node-1")
    # Rung 0 took 2 s for its epoch and ended at +60 s; rung 1 took 6 s for three and ended at +70 s.
    assert winner["start"] == CREATED + 58_000
    assert winner["end"] == CREATED + 70_000
    accuracies = [(1, 60_000, 0.5), (2, 68_000, 0.7 - 0.1), (3, 70_000, 0.7)]
    assert winner["metrics"]["validation_accuracy"] == [(s, CREATED + t, str(a)) for s, t, a in accuracies]
    assert [step for step, _, _ in winner["metrics"]["train_loss"]] == [1, 2, 3]
    costs = {name: winner["metrics"][name] for name in ("params", "macs", "activations")}
    assert costs == {name: [(0, CREATED + 60_000, value)] for name, value in
                     {"params": "1000.0", "macs": "20000.0", "activations": "300.0"}.items()}  # fmt: skip

    assert {ask: seen[ident(ask)]["status"] for ask in range(5)} == {
        0: "FINISHED", 1: "FINISHED", 2: "FAILED", 3: "FAILED", 4: "RUNNING"
    }  # fmt: skip
    assert seen[ident(1)]["tags"]["status"] == "stopped"
    assert seen[ident(4)]["tags"]["status"] == "promoted"
    for failure in (2, 3):
        assert seen[ident(failure)]["tags"]["reason"] == "the loss is NaN"
    assert "reason" not in winner["tags"]

    parent = seen["parent"]
    assert (parent["name"], parent["status"]) == ("first", "FINISHED")
    assert (parent["start"], parent["end"]) == (CREATED, CREATED + 200_000)
    assert parent["params"]["space.nodes"] == "8"
    best = [(step, float(value)) for step, _, value in parent["metrics"]["best_validation_accuracy"]]
    assert best == [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.6), (5, 0.6), (6, 0.7), (7, 0.7)]


def test_artifacts_of_the_parent(new_run: Callable[..., Path]) -> None:
    run = new_run()
    commit(run)
    finish(run, "KILLED")
    assert Writer(run).serve() == 0
    assert artifacts(run) == {
        "leaders.csv",
        "ledger.parquet",
        "pictures",
        "recipe.yaml",
        "report.json",
        "report.md",
    }
    assert artifacts(run, "pictures") == {"pictures/best.png", "pictures/best.svg"}
    parent = read_back(run)["parent"]
    assert parent["status"] == "KILLED"
    note = parent["tags"]["mlflow.note.content"]
    assert note.startswith("# First place: WS(4, 0.75) seed 0\n\n| a row |\n")
    assert note.endswith("| a row |\n")
    assert 7900 < len(note) <= 8000
    leaders = list(csv.DictReader(artifact(run, "leaders.csv").open()))
    assert [(one["rank"], one["candidate"], one["validation_accuracy"]) for one in leaders] == [
        ("1", "WS(4, 0.75) seed 0", "0.7"),
        ("2", "WS(4, 0.75) seed 4", "0.4"),
        ("3", "WS(4, 0.75) seed 1", "0.3"),
    ]  # fmt: skip
    assert client_of(run).get_run(leaders[0]["run"]).data.params["seed"] == "0"
    frame = pandas.read_parquet(artifact(run, "ledger.parquet"))
    assert list(frame["candidate_id"]) == [row.candidate.id for row in Ledger(run / "ledger").rows()]
    assert list(frame["names.seed"]) == [0, 1, 2, 3, 4, 0, 3]
    assert list(frame["metrics.validation_accuracy"].round(3).dropna()) == [0.5, 0.3, 0.6, 0.4, 0.7]


def rung(step: int, left: int, time: int, *, dropped: int = 0) -> Rung:
    """Of a space of two choices, of which the second has `left` options afterwards."""
    scored = [
        OperatorScore(operator=Operator(1, i), name=f"b {i}", scores=(0.5, None), dropped=i < dropped)
        for i in range(left + dropped)
    ]
    kept = ((0,), tuple(range(dropped, left + dropped)))
    return Rung(step=step, operators=tuple(scored), size=left, kept=kept, time=time)


def test_each_rung_of_a_search_that_shrinks_is_a_step(new_run: Callable[..., Path]) -> None:
    run = new_run(recipe={"name": "wiring", "shrinking": {"drop": 1}})
    rungs = Rungs(run / RUNGS)
    rungs.append_at(0, [rung(10, 100, CREATED + 1000, dropped=1)])
    assert Writer(run).serve() == 1
    seen = read_back(run)["parent"]["metrics"]
    assert seen == {
        "space_log10": [(0, CREATED + 1000, "2.0")], "operators_left": [(0, CREATED + 1000, "101.0")]
    }  # fmt: skip
    rungs.append_at(1, [rung(20, 10, CREATED + 2000)])
    finish(run)
    assert Writer(run).serve() == 0
    seen = read_back(run)["parent"]["metrics"]
    assert seen["space_log10"] == [(0, CREATED + 1000, "2.0"), (1, CREATED + 2000, "1.0")]
    table = list(csv.DictReader(artifact(run, "shrinking.csv").open()))
    assert len(table) == 101 + 10
    assert table[0] == {
        "rung": "0", "step": "10", "candidates_left": "100", "operator": "b 0",
        "score_1": "0.5", "score_2": "", "dropped": "1",
    }  # fmt: skip
    before = read_back(run)
    (run / "tracking" / "cursor.json").unlink()
    assert Writer(run).serve() == 0
    assert read_back(run) == before


@pytest.mark.slow
def test_a_moved_run_goes_on_in_its_own_database(new_run: Callable[..., Path]) -> None:
    run = new_run("before", tracking_uri=None)
    commit(run, SEGMENTS[:1])
    # In a process of its own, because MLflow remembers where each run's artifacts are.
    first = subprocess.run([sys.executable, "-m", "cluster.writer", str(run)], capture_output=True, text=True)
    assert first.returncode == 1, first.stderr
    moved = run.rename(run.with_name("after"))
    commit(moved, SEGMENTS[1:])
    finish(moved)
    assert Writer(moved).serve() == 0
    assert not run.exists()
    assert set(read_back(moved)) == {"parent", *(ident(ask) for ask in range(5))}
    assert (moved / "mlartifacts").is_dir()
    assert "leaders.csv" in artifacts(moved)
    assert "WS(4, 0.75) seed 0" in artifact(moved, "leaders.csv").read_text()


def test_no_secret_reaches_mlflow(new_run: Callable[..., Path]) -> None:
    run = new_run()
    finish(run)
    assert Writer(run).serve() == 0
    assert SECRET not in str(read_back(run))
    recipe = artifact(run, "recipe.yaml").read_text()
    assert SECRET not in recipe
    assert "https://images.example/set" in recipe


@pytest.mark.parametrize("repeat", ["again", "cursor lost", "cursor torn", "all over"])
def test_writing_again_changes_nothing(new_run: Callable[..., Path], repeat: str) -> None:
    run = new_run()
    commit(run)
    finish(run)
    assert Writer(run).serve() == 0
    before = read_back(run)
    cursor = run / "tracking" / "cursor.json"
    if repeat == "cursor lost":
        cursor.unlink()
    elif repeat == "cursor torn":
        cursor.write_text('{"segments": 3, "par')
    elif repeat == "all over":  # as if no run had been closed: every row is written again in full
        cursor.unlink()
        for one in client_of(run).search_runs(["1"]):
            client_of(run).update_run(one.info.run_id, status="RUNNING")
    assert Writer(run).serve() == 0
    assert read_back(run) == before


@pytest.mark.parametrize("after", [False, True], ids=["not sent", "answer lost"])
def test_killed_at_any_call_and_started_again(new_run: Callable[..., Path], after: bool) -> None:
    whole = new_run("whole")
    counted = Unruly(f"sqlite:///{whole / 'mlflow.db'}", at=0, after=False, error=Killed())
    commit(whole)
    finish(whole)
    assert Writer(whole, connect=lambda uri: counted).serve() == 0  # type: ignore[arg-type,return-value]
    expected = read_back(whole)
    assert counted.writes > 25
    for at in range(1 + after, counted.writes + 1, 3):
        run = new_run(f"killed-{at}")
        commit(run)
        finish(run)
        with pytest.raises(Killed):
            Writer(run, connect=lambda uri, at=at: Unruly(uri, at, after, Killed())).serve()  # type: ignore[misc]
        assert Writer(run).serve() == 0
        seen = read_back(run)
        seen["parent"]["name"], seen["parent"]["tags"] = "whole", expected["parent"]["tags"]
        for key in ("tracking.uri",):
            seen["parent"]["params"][key] = expected["parent"]["params"][key]
        assert seen == expected, f"killed at write {at}"


def test_an_outage_is_caught_up_with(
    new_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cluster.writer, "FIRST_PAUSE_S", 0.01)
    run = new_run()
    commit(run)
    finish(run)
    clients: list[Unruly] = []

    def connect(uri: str) -> Any:
        if len(clients) in (1, 2):
            clients.append(Unruly(uri, 1, False, MlflowException("down")))
            raise MlflowException(f"no route to https://me:{SECRET}@host")
        clients.append(
            Unruly(uri, 9 if len(clients) < 6 else 0, True, MlflowException("the answer was lost"))
        )
        return clients[-1]

    assert Writer(run, connect=connect).serve() == 0
    assert len(clients) == 7
    assert caplog.text.count("MLflow failed") == 6
    assert len(read_back(run)) == 6
    assert read_back(run)[ident(0)]["status"] == "FINISHED"


def test_segments_are_written_as_they_come_and_a_resumed_search_goes_on(new_run: Callable[..., Path]) -> None:
    run = new_run()
    commit(run, SEGMENTS[:1])
    writer = Writer(run, driver=os.getppid())
    assert writer.step() == "idle"
    assert set(read_back(run)) == {"parent", *(ident(ask) for ask in range(3))}
    assert read_back(run)["parent"]["status"] == "RUNNING"
    commit(run, SEGMENTS[1:])
    assert writer.step() == "idle"
    assert len(read_back(run)) == 6
    assert Cursor.load(Run(run)).segments == 3
    # The driver dies (its pid is not our parent's any more): the writer drains and says so.
    commit(run, [[make_row(5, 0, "promoted", 0.2)]])
    writer.driver = -1
    assert writer.serve() == 1
    assert read_back(run)["parent"]["status"] == "KILLED"
    assert read_back(run)[ident(5)]["status"] == "RUNNING"
    # Resumed: the same parent runs again.
    commit(run, [[make_row(5, 1, "ok", 0.9)]])
    assert Writer(run, driver=os.getppid()).step() == "idle"
    assert read_back(run)["parent"]["status"] == "RUNNING"
    assert read_back(run)[ident(5)]["status"] == "FINISHED"
    assert len(read_back(run)) == 7


def test_two_runs_of_one_candidate_become_one(new_run: Callable[..., Path]) -> None:
    run = new_run()
    commit(run)
    assert Writer(run).serve() == 1  # written so far: the search has no end yet
    before = read_back(run)
    client = client_of(run)
    tags = {"mlflow.parentRunId": parent_id(run), "weft.candidate_id": ident(0)}
    client.create_run("1", tags=tags)
    (run / "tracking" / "cursor.json").unlink()
    assert Writer(run).serve() == 1
    assert read_back(run) == before


def test_mlflows_address_is_left_to_nobody(
    new_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow keeps its own in the environment, where the next search of this process would find it."""
    run = new_run()
    finish(run)
    for before in (None, "http://the.users.own"):
        if before is not None:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", before)
        assert cluster.writer.main([str(run)]) == 0
        assert os.environ.get("MLFLOW_TRACKING_URI") == before


def test_a_deleted_parent_is_written_again_in_full(new_run: Callable[..., Path]) -> None:
    run = new_run()
    commit(run)
    finish(run)
    assert Writer(run).serve() == 0
    client = client_of(run)
    for one in client.search_runs(["1"]):
        client.delete_run(one.info.run_id)
    assert Writer(run).serve() == 0
    assert len(read_back(run)) == 6


def test_more_entries_than_a_call_may_hold(new_run: Callable[..., Path]) -> None:
    run = new_run()
    names = {f"edge {i}": f"op {i}" for i in range(250)}
    curve = tuple({"epoch": e, **{f"m{i}": float(e + i) for i in range(30)}} for e in range(1, 91))
    commit(run, [[make_row(0, 0, "ok", 0.5, names=names, curve=curve, epoch=90)]])
    assert Writer(run).serve() == 1
    child = read_back(run)[ident(0)]
    assert child["name"] == "candidate 0"
    assert child["params"]["edge 249"] == "op 249"
    assert len(child["params"]) == 252
    assert len(child["metrics"]["m29"]) == 90
    assert "macs" in child["metrics"]


def test_odd_names_and_numbers_are_taken(new_run: Callable[..., Path]) -> None:
    run = new_run()
    metrics = {"validation_accuracy": math.nan, "loss/top#1": math.inf}
    commit(run, [[make_row(0, 0, "ok", names={"../p?": 1, "long": "x" * 9000}, metrics=metrics, curve=())]])
    for _ in range(2):
        assert Writer(run).serve() == 1
        (run / "tracking" / "cursor.json").unlink()
    child = read_back(run)[ident(0)]
    assert child["params"]["_p_"] == "1"
    assert len(child["params"]["long"]) == 500
    assert child["metrics"]["validation_accuracy"] == [(1, CREATED + 60_000, "nan")]
    assert len(child["metrics"]["loss_top_1"]) == 1
    assert "best_validation_accuracy" not in read_back(run)["parent"]["metrics"]


def test_frontier_writes_the_leaders_alone(
    new_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.standing.LEADERS", 2)
    run = new_run(runs="frontier")
    commit(run)
    assert Writer(run).serve() == 1
    assert set(read_back(run)) == {"parent"}
    finish(run)
    for _ in range(2):
        assert Writer(run).serve() == 0
        assert set(read_back(run)) == {"parent", ident(0), ident(4)}
    assert len(read_back(run)[ident(0)]["metrics"]["validation_accuracy"]) == 3
    assert len(read_back(run)["parent"]["metrics"]["best_validation_accuracy"]) == 7


def test_frontier_with_several_objectives_holds_all_that_nothing_dominates(
    new_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One leader, and the smallest: candidates have more params the later they were asked for."""
    monkeypatch.setattr("cluster.standing.LEADERS", 1)
    objectives = [{"metric": "validation_accuracy"}, {"metric": "params", "maximise": False}]
    run = new_run(runs="frontier", recipe={"name": "wiring", "objectives": objectives})
    commit(run, [[make_row(ask, 1, "ok", accuracy) for ask, accuracy in enumerate((0.4, 0.3, 0.6, 0.5))]])
    finish(run)
    assert Writer(run).serve() == 0
    assert set(read_back(run)) == {"parent", ident(0), ident(2)}


def test_an_altered_ledger_ends_the_writer(new_run: Callable[..., Path]) -> None:
    run = new_run()
    commit(run)
    segment = run / "ledger" / "00000001.json"
    segment.write_text(segment.read_text().replace("0.6", "0.9"))
    with pytest.raises(UserError, match="altered"):
        Writer(run).serve()
    with pytest.raises(UserError, match="run\\.json"):
        Writer(run / "ledger")


def test_one_writer_at_a_time(new_run: Callable[..., Path]) -> None:
    run = new_run()
    (run / "tracking").mkdir()
    waits = [True, True, False]
    with only_writer(Run(run), lambda: False) as first, only_writer(Run(run), lambda: waits.pop(0)) as second:
        assert first is not None and second is None
    assert not waits
    with only_writer(Run(run), lambda: False) as third:
        assert third is not None
    stop = threading.Event()
    alone, driven, orphan = Writer(run, stop=stop), Writer(run, os.getppid(), stop=stop), Writer(run, -1)
    assert (alone.patient(), driven.patient(), orphan.patient()) == (True, True, False)
    stop.set()
    assert not alone.patient()
    assert not driven.patient()


@pytest.mark.slow
def test_the_process_follows_a_search_to_its_end(
    new_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.tracker.WRITER", ("-m", "cluster.writer"))
    run = new_run()
    commit(run, SEGMENTS[:1])
    writer = WriterProcess(Run(run))
    assert writer.outbox == 1
    writer.start()
    try:
        assert writer._process is not None
        pid = writer._process.pid
        assert os.getsid(pid) == pid, "Ctrl-C in the terminal would reach it"
        assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
        writer.start()
        assert writer._process.pid == pid
        wait_for(lambda: writer.outbox == 0)
        assert os.getpriority(os.PRIO_PROCESS, pid) >= cluster.writer.NICENESS
        group = Path(f"/proc/{pid}/autogroup")
        assert not group.exists() or group.read_text().endswith(f"nice {cluster.writer.NICENESS}\n")
        writer._process.kill()  # the writer dies; the search does not notice, and drain starts another
        writer._process.wait()
        commit(run, SEGMENTS[1:])
        finish(run)
        waits: list[int] = []
        assert writer.drain(60, waits.append)
        assert writer.drain(1)
    finally:
        stop(writer)
    assert waits
    assert max(waits) <= 2
    assert len(read_back(run)) == 6
    assert read_back(run)["parent"]["status"] == "FINISHED"


@pytest.mark.slow
def test_the_process_ends_after_its_driver_and_on_sigterm(new_run: Callable[..., Path]) -> None:
    run = new_run()
    commit(run)
    # A driver that dies at once and tells the writer's pid.
    driver = (
        "import os, sys; from pathlib import Path; from cluster.run import Run; "
        "from cluster.tracker import WriterProcess\n"
        "writer = WriterProcess(Run(Path(sys.argv[1]))); writer.start()\n"
        "print(writer._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", driver, str(run)], capture_output=True, text=True, timeout=60
    )
    orphan = int(answer.stdout)
    second = WriterProcess(Run(run))
    second.start()  # the resumed search's writer: waits for the orphan, or the orphan leaves it the work
    try:
        wait_for(lambda: not Path(f"/proc/{orphan}").exists() or is_zombie(orphan))
        wait_for(lambda: second.outbox == 0 and read_back(run)["parent"]["status"] == "RUNNING")
        assert not second.drain(0.6)  # no finished.json: it has not ended
    finally:
        stop(second)
    assert not second.running
    assert second._process is not None
    assert second._process.returncode == 1, "SIGTERM is a clean end"
    assert len(read_back(run)) == 6


def stop(writer: WriterProcess) -> None:
    if writer._process is not None:
        writer._process.send_signal(signal.SIGTERM)
        writer._process.wait(30)


def is_zombie(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


@pytest.mark.slow
def test_drain_gives_up_at_once_on_an_altered_ledger(new_run: Callable[..., Path]) -> None:
    run = new_run()
    commit(run, SEGMENTS[:1])
    (run / "ledger" / "00000000.json").write_text("{")
    start = time.monotonic()
    assert not WriterProcess(Run(run)).drain(60)
    assert time.monotonic() - start < 30
    assert "It is truncated" in (run / "tracking" / "writer.log").read_text()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
    return port


def refusal(uri: str, within_s: float) -> str:
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        check_tracking(uri)
    assert time.monotonic() - start < within_s
    assert caught.value.field == "tracking.uri"
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_a_server_that_is_down_is_refused(closed_port: int) -> None:
    text = refusal(f"http://me:{SECRET}@127.0.0.1:{closed_port}", 20)
    assert "cannot be reached" in text
    assert f"http://127.0.0.1:{closed_port}" in text


@pytest.mark.slow
def test_a_server_that_is_silent_is_refused(silent_port: int) -> None:
    assert "5 s" in refusal(f"http://127.0.0.1:{silent_port}", 25)


def test_places_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, and longer than the head of one" * 10)
    assert "is not a folder" in refusal(f"sqlite:///{tmp_path}/text/deeper/mlflow.db", 2)
    assert "not a database" in refusal(f"sqlite:///{tmp_path}/text", 2)
    assert "unable to open" in refusal(f"sqlite:///{tmp_path}", 2)
    assert "names no file" in refusal("sqlite://", 2)
    assert "sqlite:///mlruns.db" in refusal(f"file://{tmp_path}/mlruns", 2)
    assert "sqlite:///mlruns.db" in refusal("./mlruns", 2)
    assert "Did you mean 'sqlite'?" in refusal("sqllite:///x.db", 2)
    assert not list(tmp_path.glob("*.db"))


def test_usable_places_are_accepted_and_nothing_is_written(tmp_path: Path, migrated: Path) -> None:
    check_tracking(f"sqlite:///{tmp_path}/not/yet/there/mlflow.db")
    assert not list(tmp_path.iterdir())
    body = migrated.read_bytes()
    check_tracking(f"sqlite:///{migrated}")
    assert migrated.read_bytes() == body


def test_texts_lose_their_secrets() -> None:
    uri = f"postgresql://me:{SECRET}@db.example:5432/mlflow?sslkey=k3y"
    assert redacted(uri) == "postgresql://db.example:5432/mlflow"
    assert clean(f"cannot open {uri}: password '{SECRET}' of me refused", uri) == (
        "cannot open postgresql://db.example:5432/mlflow: password '***' of me refused"
    )
    assert redacted("sqlite:////runs/a@b.db") == "sqlite:////runs/a@b.db"
    nested = {"a": {"secret_key": 1, "list": [{"password": 2, "kept": None}]}, "b": 3}
    assert without_secrets(nested) == {"a": {"list": [{"kept": None}]}, "b": 3}
    assert list(flatten({"a": {"b": [1, 2], "c": None}, "d": 0})) == [("a.b", [1, 2]), ("d", 0)]


def test_standing_ranks_by_the_newest_row(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    standing = Standing(ledger, "validation_accuracy")
    segments = [
        [make_row(0, 0, "promoted", 0.9), make_row(1, 0, "stopped", 0.8), make_row(2, 0, "stopped")],
        [make_row(0, 1, "ok", 0.5), failed_row(3, 1), make_row(4, 1, "ok", 0.5)],
    ]
    points = []
    for number, rows in enumerate(segments):
        append(ledger, rows)
        points += standing.update(number, rows)
    # 0 fell to 0.5, yet was trained longer than 1; 4 ties with it and was asked later; 2 is NaN, 3 failed.
    assert [(row.candidate.ask_index, row.rung) for row in standing.leaders()] == [(0, 1), (4, 1), (1, 0)]
    assert [(point.step, point.value) for point in points] == [(step, 0.9) for step in range(1, 7)]


def test_a_writer_that_ends_in_the_last_moment_has_taken_everything(
    new_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just when nobody would have waited any longer."""
    now = 0.0

    class Ending:
        """Ends well while it is waited for, which takes all the time that there is."""

        code: int | None = None

        def poll(self) -> int | None:
            return self.code

        def wait(self, seconds: float) -> int:
            nonlocal now
            now += seconds
            self.code = 0
            return 0

    writer = WriterProcess(Run(new_run()))
    monkeypatch.setattr("cluster.tracker.time.monotonic", lambda: now)
    monkeypatch.setattr(writer, "_process", Ending())
    assert writer.drain(0.5)
