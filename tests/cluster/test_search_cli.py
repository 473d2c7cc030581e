"""Searches over choices on the command line: search, show, describe, rank and bench-search."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import cluster.experiment
from cluster.ledger import Ledger
from cluster.local_search import drive_local_search
from cluster.members import PoolLost
from cluster.run import Run
from cluster.search_messages import SearchConfig, SearchReport
from cluster.tune_adapter import fault_of, fault_text
from networks.errors import CannotGoOn
from networks.spaces.space import Genes
from tests.cluster.choices import chain_space, write_table, write_tiny
from tests.cluster.commands import json_of, private_environment, run_weft, tree, weft
from tests.cluster.test_shrinking import SHRINKING, SUPERNET

SPACE = chain_space()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny recipe, a table and the recipe's finished run, tiny-001, in MLflow too."""
    folder = tmp_path_factory.mktemp("finished")
    table = write_table(folder / "truth.csv", {"size": lambda genes: SPACE.cost(genes).params})
    ranking = {"table": table.name, "truth": "size", "scores": ["params", "accuracy"], "cells": 6}
    objectives = [{"metric": "accuracy"}, {"metric": "macs", "maximise": False}]
    write_tiny(folder, ranking=ranking, objectives=objectives)
    ended = weft("search", "tiny.yaml", "--local", cwd=folder)
    assert ended.code == 0, ended.err
    (folder / "said.txt").write_text(ended.out)
    return folder


@pytest.fixture
def copied(tmp_path: Path, folder: Path) -> Path:
    """A copy of it, to be changed."""
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


# Search and show -------------------------------------------------------------------------------------------


def test_a_search_says_what_it_found_and_where_everything_is(folder: Path) -> None:
    lines = (folder / "said.txt").read_text().splitlines()
    assert lines[0] == f"tiny-001: up to 24 candidates of 6,561, in {folder / 'runs' / 'tiny-001'}"
    assert any(line.startswith("training the supernet, step 2 of 4 · loss ") for line in lines)
    for stage in (
        "searching, ",
        "scoring random candidates, ",
        "ranking scores, ",
        "24 candidates · best accuracy",
    ):
        assert any(line.startswith(stage) for line in lines), stage
    for head in ("leaders", "frontier", "best accuracy", "score"):
        assert any(line.strip().startswith(head) for line in lines), head
    params = next(line.split() for line in lines if line.strip().startswith("params "))
    assert params[1] == "1"
    assert any("s from the first step to the last candidate: " in line for line in lines)
    assert lines[-2:] == ["report: runs/tiny-001/report.md", "in MLflow: weft ui runs/tiny-001"]
    assert (folder / "runs" / "tiny-001" / "report.md").stat().st_size > 0
    assert "arning" not in "\n".join(lines)


def test_the_record_in_mlflow_has_every_candidate(folder: Path) -> None:
    from mlflow import MlflowClient

    run = Run(folder / "runs" / "tiny-001")
    client = MlflowClient(run.tracking_uri)
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    children = [one for one in runs if "mlflow.parentRunId" in one.data.tags]
    assert len(children) == 24
    recorded = sorted(one.data.metrics["accuracy"] for one in children)
    assert recorded == pytest.approx(sorted(row.metrics["accuracy"] for row in run.ledger.rows()))


def test_show_lists_what_the_report_has(folder: Path) -> None:
    report = json.loads((folder / "runs" / "tiny-001" / "report.json").read_text())
    ended = weft("show", "tiny", "--json", cwd=folder)
    assert json.loads(ended.out) == report
    assert report["candidates"] == report["finished"] == 24
    assert report["scores"][0]["tau"] == pytest.approx(1)
    assert report["ledger_digest"] == Run(folder / "runs" / "tiny-001").ledger.digest()
    shown = weft("show", "tiny-001", "--limit", "2", cwd=folder).out
    assert shown.startswith("tiny-001: FINISHED\n")
    for line in report["ranking"][:2]:
        assert " ".join(map(str, line["genes"])) in shown
        assert f"{line['params']:,}" in shown


def test_json_is_one_object_and_progress_goes_elsewhere(
    tmp_path: Path, folder: Path, no_mlflow: None
) -> None:
    write_tiny(tmp_path)
    ended = weft("search", "tiny.yaml", "--local", "--json", cwd=tmp_path)
    found = json.loads(ended.out)
    assert (ended.code, found["run"], found["candidates"]) == (0, "tiny-001", 24)
    assert "searching, " in ended.err
    # The ranking and what else is compared changes no candidate.
    assert found["ledger_digest"] == Run(folder / "runs" / "tiny-001").ledger.digest()


STOPS = [
    (
        CannotGoOn("the search's process died 4 times,\nand retries are 3"),
        "process died 4 times, and retries are 3",
    ),
    (
        fault_of(fault_text(PoolLost("7 times in a row a replica failed"))),
        "7 times in a row a replica failed",
    ),
    (fault_of(fault_text(KeyError("weights"))), "KeyError: 'weights'"),
]


@pytest.mark.parametrize(("error", "words"), STOPS)
def test_a_search_that_cannot_go_on_says_how_to(
    tmp_path: Path, no_mlflow: None, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def stop(config: SearchConfig, heard: Callable[[SearchReport], None]) -> None:
        raise error

    write_tiny(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(cluster.experiment, "drive_local_search", stop)
        ended = weft("search", "tiny.yaml", "--set", "seed=4", "--local", cwd=tmp_path)
    assert ended.code == 1
    (line,) = [line for line in ended.err.splitlines() if line.startswith("weft: ")]
    assert words in line
    assert line.endswith(
        "what is committed is kept. To go on: weft search tiny.yaml --set seed=4 --local --resume"
    )
    assert "Traceback" not in ended.err
    assert Run(tmp_path / "runs" / "tiny-001").ending == "FAILED"
    assert weft("search", "tiny.yaml", "--set", "seed=4", "--local", "--resume", cwd=tmp_path).code == 0


def test_a_ranking_that_cannot_go_on_says_how_to(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise CannotGoOn("the search's process died 4 times")

    monkeypatch.setattr("cluster.rank.drive_choices", stop)
    arguments = ("rank", "tiny", "--score", "params", "--table", "truth.csv", "--truth", "size", "--local")
    ended = weft(*arguments, cwd=copied)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.splitlines()[-1] == (
        "weft: the search's process died 4 times; what is committed is kept. To go on: the same command"
    )


def test_every_candidate_failed(tmp_path: Path, no_mlflow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> float:
        raise MemoryError("there is none left")

    monkeypatch.setattr("trainers.scores.accuracy.Validation.__call__", fail)
    write_tiny(tmp_path)
    ended = weft("search", "tiny.yaml", "--local", cwd=tmp_path)
    assert ended.code == 1
    assert "every candidate failed" in ended.err
    assert "24 failed: " in ended.out
    assert "Traceback" not in ended.err + ended.out


def test_a_diverged_supernet_ends_with_what_to_do(tmp_path: Path, no_mlflow: None) -> None:
    write_tiny(tmp_path)
    ended = weft("search", "tiny.yaml", "--local", "--set", "supernet.lr=1e30", cwd=tmp_path)
    assert ended.code == 2
    assert "weft: tiny.yaml with --set supernet.lr=1e30: supernet.lr: 1e+30 cannot be used" in ended.err
    assert "not a number at step " in ended.err
    assert "Traceback" not in ended.err
    run = Run(tmp_path / "runs" / "tiny-001")
    assert (run.ending, list(run.ledger.rows())) == ("FAILED", [])
    assert "0 candidates, 0 of them failed." in (run.folder / "report.md").read_text()


@pytest.mark.slow
def test_a_search_in_a_process_without_ray(tmp_path: Path) -> None:
    """The real command, where ray cannot be imported."""
    blocker = "import sys\nsys.modules['ray'] = None\n"
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "sitecustomize.py").write_text(blocker)
    write_tiny(tmp_path, baseline=False, ranking=None)
    with private_environment() as env:
        env["PYTHONPATH"] = f"{tmp_path / 'blocked'}:{env['PYTHONPATH']}"
        found = json_of(run_weft("search", "tiny.yaml", "--local", "--json", cwd=tmp_path, env=env))
        assert found["candidates"] == 12
        ended = run_weft("search", "tiny.yaml", cwd=tmp_path, env=env)
    assert ended.returncode == 2
    assert "--local: False cannot be used; allowed: true where ray is not installed" in ended.stderr


# Interruption ----------------------------------------------------------------------------------------------


def interrupted(reports: int) -> Callable[[SearchConfig, Callable[[SearchReport], None]], None]:
    """The local driver with Ctrl-C after so many reports."""

    def drive(config: SearchConfig, heard: Callable[[SearchReport], None]) -> None:
        count = 0

        def listen(report: SearchReport) -> None:
            nonlocal count
            heard(report)
            count += 1
            if count == reports:
                raise KeyboardInterrupt

        drive_local_search(config, listen)

    return drive


@pytest.mark.parametrize("after", [1, 4, 8])
def test_ctrl_c_keeps_everything_and_a_resume_ends_the_same(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, no_mlflow: None, after: int
) -> None:
    write_tiny(tmp_path)
    command = ("search", "tiny.yaml", "--set", "retries=1", "--local")
    with monkeypatch.context() as patch:
        patch.setattr(cluster.experiment, "drive_local_search", interrupted(after))
        ended = weft(*command, cwd=tmp_path)
    assert ended.code == 130
    assert "tiny-001 is stopped" in ended.err
    assert "To go on: weft search tiny.yaml --set retries=1 --local --resume" in ended.err
    run = Run(tmp_path / "runs" / "tiny-001")
    assert run.ending == "KILLED"
    assert weft("show", "tiny", cwd=tmp_path).out.startswith("tiny-001: KILLED\n")
    again = weft(*command, "--resume", "--json", cwd=tmp_path)
    assert again.code == 0, again.err
    undisturbed = Run(folder / "runs" / "tiny-001")
    assert json.loads(again.out)["ledger_digest"] == undisturbed.ledger.digest()
    assert run.ending == "FINISHED"


def test_a_changed_recipe_is_not_gone_on_with(copied: Path) -> None:
    for change, words in (("seed=3", "this one has changed since"), ("retries=2", "This one is complete")):
        ended = weft("search", "tiny.yaml", "--local", "--resume", "--set", change, cwd=copied)
        assert ended.code == 2
        assert words in ended.err


# What is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["searcher.kind=evolutoin"], ["searcher.kind: 'evolutoin'", "Did you mean 'evolution'?"]),
        (["score.names=[acuracy]"], ["score.names.0: 'acuracy'", "Did you mean 'accuracy'?"]),
        (["space.kind=smal_chain"], ["space.kind: 'smal_chain'", "Did you mean 'small_chain'?"]),
        (["in_flight=4"], ["in_flight: 4", "a multiple of round (3)"]),
        (
            ["constraints=[{cost: params, at_most: 10}]"],
            ["tiny.yaml with --set constraints=", "constraints.0.at_most: 10.0", "smallest ", "largest "],
        ),
        (["ranking={table: no.csv, truth: a, scores: [params]}"], ["ranking.table: 'no.csv'"]),
        (["warm_start.path=no.csv"], ["warm_start.path: 'no.csv'"]),
        (["supernet.precision=mixed"], ["supernet.precision: 'mixed'", "on a CPU"]),
        (["supernet.mac_bins={low: 1, high: 9}"], ["supernet.mac_bins: ", "smallest ", "largest "]),
        (["score.batch_size=500"], ["score.batch_size: 500", "1 to 128"]),
        (["supernet.batch_size=1000"], ["supernet.batch_size: 1000"]),
        (["searcher.kind=x", "round=0"], ["searcher.kind: 'x'", "round: 0"]),
    ],
)
def test_a_recipe_that_cannot_be_searched_writes_nothing(
    tmp_path: Path, changes: list[str], words: list[str]
) -> None:
    write_tiny(tmp_path)
    before = tree(tmp_path)
    sets = [word for change in changes for word in ("--set", change)]
    ended = weft("search", "tiny.yaml", "--local", *sets, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    for word in words:
        assert word in ended.err
    assert all(line.startswith("weft: tiny.yaml") for line in ended.err.splitlines())
    assert tree(tmp_path) == before


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_resume_with_a_bad_checkpoint(copied: Path, damage: str) -> None:
    run = Run(copied / "runs" / "tiny-001")
    run.finish("KILLED")
    for path in (run.folder / "supernet").glob("*.safetensors"):
        body = path.read_bytes()
        path.write_bytes(body[:-8] if damage == "truncated" else body[:-1] + bytes([body[-1] ^ 1]))
    ended = weft("search", "tiny.yaml", "--local", "--resume", cwd=copied)
    assert ended.code == 2
    assert "weft: checkpoint: " in ended.err
    assert "a whole checkpoint, unaltered. Delete it to train anew." in ended.err
    assert "Traceback" not in ended.err


# Describe --------------------------------------------------------------------------------------------------


def test_describe_measures_and_writes_nothing(folder: Path) -> None:
    before = tree(folder)
    found = json.loads(weft("describe", "tiny.yaml", "--json", cwd=folder).out)
    assert (found["space"], found["size"], found["searcher"]) == ("small_chain", 6561, "evolution")
    assert (found["evaluations"], found["evaluations_with_baseline"]) == (12, 24)
    assert found["costs"]["params"] == list(SPACE.extremes("params"))
    assert found["choices"][0] == ["identity", "mbconv3_3x3", "mbconv6_5x5"]
    assert found["feasible_share"] == 1
    seconds = 4 * found["seconds_a_step"] + 24 * found["seconds_a_candidate"]
    assert found["hours_of_one_replica"] == pytest.approx(seconds / 3600) and seconds > 0
    said = weft("describe", "tiny.yaml", cwd=folder).out
    assert said.startswith("tiny: 6,561 candidates of small_chain, 8 genes\nparams: ")
    assert "evolution: up to 12 evaluations, and as many random ones to compare with" in said
    assert tree(folder) == before


def test_describe_tells_the_share_that_constraints_allow(tmp_path: Path) -> None:
    params = sorted(SPACE.cost(genes).params for genes in SPACE.enumerate())
    write_tiny(
        tmp_path, constraints=[{"cost": "params", "at_most": params[len(params) // 4]}], baseline=False
    )
    found = json.loads(weft("describe", "tiny.yaml", "--json", cwd=tmp_path).out)
    assert found["feasible_share"] == pytest.approx(0.25, abs=0.06)
    assert "as many random ones" not in weft("describe", "tiny.yaml", cwd=tmp_path).out


def test_describe_counts_the_steps_of_a_space_that_shrinks(tmp_path: Path) -> None:
    shrinking = {**SHRINKING, "supernets": 2}
    write_tiny(tmp_path, supernet=SUPERNET, shrinking=shrinking)
    found = json.loads(weft("describe", "tiny.yaml", "--json", cwd=tmp_path).out)
    # 24 operators, three a rung: three rungs leave 2 ** 8 at most and, dropped unevenly, 100 and fewer.
    assert found["rungs"] in (3, 4) and found["supernets"] == 2
    assert found["supernet_steps"] == 2 * (4 + (found["rungs"] - 1) * 2 + 3)
    said = weft("describe", "tiny.yaml", cwd=tmp_path).out
    assert f"some {found['rungs']} rungs, at which the space loses operators, in 2 supernets" in said


def test_describe_draws_no_graphs_of_choices(folder: Path) -> None:
    ended = weft("describe", "tiny.yaml", "--graphs", "3", cwd=folder)
    assert ended.code == 2
    assert "--graphs: 3 cannot be used" in ended.err


# Rank ------------------------------------------------------------------------------------------------------


def test_rank_against_a_table(copied: Path) -> None:
    arguments = ("rank", "tiny", "--score", "macs", "--score", "params", "--local")
    ended = weft(*arguments, "--table", "truth.csv", "--truth", "size", "--cells", "9", "--json", cwd=copied)
    found = json.loads(ended.out)
    assert [(one["score"], one["candidates"]) for one in found["scores"]] == [("macs", 9), ("params", 9)]
    assert found["scores"][1]["tau"] == pytest.approx(1)
    said = weft(*arguments, "--table", "truth.csv", "--truth", "size", "--cells", "9", cwd=copied).out
    assert "tau-b" in said and "params" in said


def test_rank_against_trainings(copied: Path, no_mlflow: None) -> None:
    arguments = ("rank", "tiny", "--score", "params", "--train", "3", "--epochs", "1", "--local", "--json")
    ended = weft(*arguments, cwd=copied)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert (found["truth"], found["scores"][0]["candidates"]) == ("standalone_accuracy", 3)
    assert "3/3 candidates" in ended.err
    assert json.loads(weft(*arguments, cwd=copied).out) == found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--score", "parms", "--train", "3"], ["--score: 'parms'", "Did you mean 'params'?"]),
        (["--score", "params"], ["--table: None", "--table with --truth, or --train"]),
        (["--score", "params", "--table", "truth.csv"], ["--table: 'truth.csv'"]),
        (["--score", "params", "--table", "truth.csv", "--truth", "size", "--train", "3"], ["--table"]),
        (["--score", "params", "--table", "no.csv", "--truth", "size"], ["weft: --table: 'no.csv'"]),
        (
            ["--score", "params", "--table", "truth.csv", "--truth", "sise"],
            ["--truth: 'sise'", "mean 'size'?"],
        ),
        (["--score", "params", "--train", "2"], ["--train"]),
        (["--train", "3"], ["--score"]),
    ],
)
def test_rank_refuses(folder: Path, arguments: list[str], words: list[str]) -> None:
    ended = weft("rank", "tiny", *arguments, "--local", cwd=folder)
    assert (ended.code, ended.out) == (2, "")
    for word in words:
        assert word in ended.err
    assert Run(folder / "runs" / "tiny-001").ending == "FINISHED"


# Tables ----------------------------------------------------------------------------------------------------


def height(genes: Genes) -> float:
    """Regret 0 is found by whoever climbs."""
    return 90 + sum(genes) / 2


@pytest.fixture
def tabular(tmp_path: Path) -> Path:
    """A folder with a recipe that searches a table."""
    columns = {"early": height, "late": lambda genes: height(genes) - 10}
    write_table(tmp_path / "known.csv", columns)
    score = {"kind": "table", "path": "known.csv", "names": ["early"], "image": [1, 8, 8]}
    searcher = {"kind": "local", "budget": 40, "starts": 2}
    write_tiny(tmp_path, score=score, searcher=searcher, data=None, supernet=None, round=1, in_flight=None)
    return tmp_path


def test_a_table_is_searched_and_shown(tabular: Path, no_mlflow: None) -> None:
    """Without --local too: a table needs no Ray."""
    ended = weft("search", "tiny.yaml", cwd=tabular)
    assert ended.code == 0, ended.err
    assert ended.out.startswith(
        "a table needs no Ray: searching in this process\ntiny-001: up to 80 candidates"
    )
    report = json.loads(weft("show", "tiny", "--json", cwd=tabular).out)
    assert report["ranking"][0]["metrics"]["early"] == max(
        height(row.candidate.genes) for row in Ledger(tabular / "runs" / "tiny-001" / "ledger").rows()
    )
    assert report["against_random"]["best_search"] > report["against_random"]["best_random"]
    again = weft("search", "tiny.yaml", "--local", "--json", cwd=tabular)
    assert json.loads(again.out)["ledger_digest"] == report["ledger_digest"]


def test_bench_search_compares_with_random_search(tabular: Path) -> None:
    ended = weft("bench-search", "tiny.yaml", "--seeds", "4", "--reported", "late", "--json", cwd=tabular)
    found = json.loads(ended.out)
    assert (found["seeds"], found["budget"], found["in_flight"]) == (4, 40, 1)
    assert (found["objective"], found["reported"], found["optimum"]) == (
        "early",
        "late",
        height((2,) * 8) - 10,
    )
    local, random = found["methods"]["local"], found["methods"]["random"]
    assert local["mean"][-1] < random["mean"][-1]
    assert (tabular / "bench_search.png").stat().st_size > 0
    assert json.loads((tabular / "bench_search.json").read_text())["methods"] == found["methods"]
    said = weft(
        "bench-search", "tiny.yaml", "--seeds", "2", "--budget", "10", "--folder", "out", cwd=tabular
    ).out
    assert "regret of local" in said and "found the best" in said
    assert "picture: out/bench_search.png" in said


def test_bench_search_binds_constraints(tabular: Path) -> None:
    macs = sorted(SPACE.cost(genes).macs for genes in SPACE.enumerate())
    change = f"constraints=[{{cost: macs, at_most: {macs[len(macs) // 2]}}}]"
    arguments = ("bench-search", "tiny.yaml", "--seeds", "2", "--json", "--set", change)
    found = json.loads(weft(*arguments, cwd=tabular).out)
    allowed = [genes for genes in SPACE.enumerate() if SPACE.cost(genes).macs <= macs[len(macs) // 2]]
    assert found["optimum"] == max(map(height, allowed)) < height((2,) * 8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "score.names=[erly]"], ["score.names: 'erly'", "Did you mean 'early'?"]),
        (["--reported", "lat"], ["--reported: 'lat'", "Did you mean 'late'?"]),
        (["--set", "score.path=no.csv"], ["score.path: 'no.csv'"]),
        (["--set", "constraints=[{cost: latency_ms, at_most: 3}]"], ["score.names: ", "latency_ms too"]),
        (["--set", "constraints=[{cost: params, at_most: 3}]"], ["constraints.0.at_most: 3.0"]),
        (["--seeds", "1"], ["--seeds"]),
    ],
)
def test_bench_search_refuses(tabular: Path, arguments: list[str], words: list[str]) -> None:
    before = tree(tabular)
    ended = weft("bench-search", "tiny.yaml", *arguments, cwd=tabular)
    assert (ended.code, ended.out) == (2, "")
    for word in words:
        assert word in ended.err
    assert tree(tabular) == before


def test_bench_search_needs_a_table(folder: Path) -> None:
    ended = weft("bench-search", "tiny.yaml", cwd=folder)
    assert ended.code == 2
    assert "score.kind: 'computed' cannot be used; allowed: table" in ended.err
