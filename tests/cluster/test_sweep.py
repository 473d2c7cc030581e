"""One recipe with several values of its fields: which searches there are, and what is said of them."""

import json
from pathlib import Path

import pytest

import cluster.experiment
from cluster.run import Run
from cluster.sweep import arms_of, told
from networks.errors import UserError
from tests.cluster.choices import write_tiny
from tests.cluster.commands import tree, weft, write_recipe
from tests.cluster.searches import SMALL

OVER = ("--over", "searcher.generations=[1, 2]", "--over", "seed=[0, 1]")
SWEEP = ("sweep", "tiny.yaml", *OVER, "--local", "--json")


def test_every_combination_is_a_search(tmp_path: Path, no_mlflow: None) -> None:
    write_tiny(tmp_path)
    ended = weft(*SWEEP, cwd=tmp_path)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    asked = [one["values"] for one in found["searches"]]
    assert asked == [
        {"searcher.generations": generations, "seed": seed} for generations in (1, 2) for seed in (0, 1)
    ]
    assert [one["run"] for one in found["searches"]] == [f"tiny-00{number}" for number in (1, 2, 3, 4)]
    for one in found["searches"]:
        rows = [row for row in Run(tmp_path / one["folder"]).ledger.rows() if row.candidate.phase]
        assert one["candidates"] == len(rows)
        assert one["best"] == max(row.metrics["accuracy"] for row in rows)
    first, second = found["groups"]
    assert first["values"] == {"searcher.generations": 1} and first["searches"] == 2
    assert first["best"]["values"] == [one["best"] for one in found["searches"][:2]]
    assert second["candidates"]["mean"] > first["candidates"]["mean"] and first["gain"] is None


def test_what_was_searched_is_not_searched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_mlflow: None
) -> None:
    """Another value costs its own searches; one that was interrupted is gone on with."""
    write_tiny(tmp_path)
    drive, left = cluster.experiment.drive_local_search, 3

    def stop(*of: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        drive(*of)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(cluster.experiment, "drive_local_search", stop)
        ended = weft(*SWEEP, cwd=tmp_path)
    assert ended.code == 130 and "tiny-003 is stopped" in ended.err
    assert ended.err.splitlines()[-1].endswith(
        "To go on: weft sweep tiny.yaml --over 'searcher.generations=[1, 2]' --over 'seed=[0, 1]' --local"
    )
    before = tree(tmp_path / "runs" / "tiny-001")
    found = json.loads(weft(*SWEEP, cwd=tmp_path).out)
    assert [one["run"] for one in found["searches"]] == [f"tiny-00{number}" for number in (1, 2, 3, 4)]
    assert tree(tmp_path / "runs" / "tiny-001") == before
    more = json.loads(weft(*SWEEP, "--over", "round=[3]", cwd=tmp_path).out)
    assert [one["run"] for one in more["searches"]] == [one["run"] for one in found["searches"]]


def test_tables_for_people(tmp_path: Path, no_mlflow: None) -> None:
    write_tiny(tmp_path)
    ended = weft("sweep", "tiny.yaml", *OVER, "--local", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert "3 of 4: searcher.generations=2, seed=0" in ended.out
    lines = [line.split() for line in ended.out.splitlines()]
    assert ["searcher.generations", "seed", "run", "candidates", "best", "accuracy"] in lines
    at = lines.index(["searcher.generations", "seeds", "best", "accuracy"])
    assert [line[:2] for line in lines[at + 2 : at + 4]] == [["1", "2"], ["2", "2"]]
    assert all(line[3] == "±" for line in lines[at + 2 : at + 4])


def test_grids_too(tmp_path: Path, no_mlflow: None) -> None:
    generators = [{"generator": "BA", "m": 1}]
    write_recipe(tmp_path, space={**SMALL["space"], "generators": generators})  # type: ignore[dict-item]
    ended = weft(
        "sweep", "small.yaml", "--over", "training.lr=[0.1, 0.01]", "--local", "--json", cwd=tmp_path
    )
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["metric"] == "validation_accuracy" and len(found["searches"]) == 2
    assert all(0 < one["best"] <= 1 and one["candidates"] == 2 for one in found["searches"])


def test_what_was_rewritten_gains() -> None:
    sides = [{"metrics": {"accuracy": value}} for value in (0.5, 0.75, 0.5, 0.5)]
    transformed = [{"before": sides[0], "after": sides[1]}, {"before": sides[2], "after": sides[3]}]
    report = {"metric": "accuracy", "ranking": [], "candidates": 0, "transformed": transformed}
    assert told(report) == {"candidates": 0, "best": None, "gain": 0.125}


@pytest.mark.parametrize(
    ("over", "said"),
    [
        (["seed"], r"--over: 'seed'.*FIELD=\[VALUE"),
        (["seed=3"], r"FIELD=\[VALUE"),
        (["seed=[]"], r"FIELD=\[VALUE"),
        (["seed=[0, 1"], r"FIELD=\[VALUE"),
        (["seed=[0]", "seed=[1]"], "each field once"),
        (["sed=[0, 1]"], "sed"),
        (["searcher.generations=[1, -1]"], r"searcher\.generations: -1"),
        (["seed=[1, 1]"], "the same search"),
        (["resources.workers=[1, 2]"], r"resources\.workers=2 is the same search as resources\.workers=1"),
    ],
)
def test_mistakes_are_found_before_the_first_search(tmp_path: Path, over: list[str], said: str) -> None:
    path = write_tiny(tmp_path)
    with pytest.raises(UserError, match=said):
        arms_of(str(path), [], over)
