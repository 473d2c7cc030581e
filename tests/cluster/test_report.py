"""The report: who ranks before whom, settings compared, and that it renders."""

import json
import math
from pathlib import Path

import pytest

from cluster.ledger import Ledger, Row
from cluster.recipe import Recipe
from cluster.report import Group, groups, markdown, newest, rank, report
from cluster.run import Run
from cluster.standing import Standing
from tests.cluster.rows import METRIC, commit, row
from tests.cluster.searches import small_recipe


def order(rows: list[Row]) -> list[int]:
    return [one.candidate.ask_index for one in rank(rows, METRIC)]


def test_the_newest_row_of_each_candidate_counts() -> None:
    rows = [row(1, "promoted", epoch=1), row(0, "stopped", epoch=1), row(1, "ok", epoch=4, rung=2)]
    assert newest(rows) == [rows[1], rows[2]]
    assert newest(iter(rows)) == newest(rows)
    assert newest([]) == []


def test_longer_training_ranks_first_then_the_metric_then_the_ask() -> None:
    rows = [
        row(0, "failed", None, epoch=4, reason="why"),
        row(1, "stopped", 0.99, epoch=1),
        row(2, "ok", 0.70, epoch=4),
        row(3, "ok", 0.80, epoch=4),
        row(4, "ok", 0.80, epoch=4),
        row(5, "stopped", 0.10, epoch=2),
        row(6, "failed", None, epoch=0, reason="why"),
        row(7, "ok", 0.0, epoch=4),
    ]
    assert order(rows) == [3, 4, 2, 7, 5, 1, 0, 6]
    assert order(rows[::-1]) == order(rows)


def test_the_report_and_mlflow_rank_alike(tmp_path: Path) -> None:
    """NaN and failed ones have no place among the leaders, and stand last in the report."""
    rows = [
        row(0, "stopped", 0.99, epoch=1),
        row(1, "ok", 0.8, epoch=4),
        row(2, "ok", math.nan, epoch=4),
        row(3, "failed", None, epoch=4, reason="why"),
        row(4, "ok", 0.9, epoch=4),
        row(5, "ok", 0.8, epoch=4),
        row(6, "stopped", -0.5, epoch=4),
    ]
    ledger = Ledger(tmp_path)
    commit(ledger, rows)
    standing = Standing(ledger, METRIC)
    standing.update(0, rows)
    leaders = [one.candidate.ask_index for one in standing.leaders()]
    assert leaders == [4, 1, 5, 6, 0]
    assert order(rows) == [*leaders, 2, 3]


def test_settings_are_compared_by_those_who_finished() -> None:
    def of(setting: str, ask: int, accuracy: float | None, status: str = "ok") -> Row:
        return row(ask, status, accuracy, names={"setting": setting, "seed": ask})

    rows = [
        of("BA(1)", 0, 0.6),
        of("BA(1)", 1, 0.8),
        of("BA(1)", 2, 0.1, "stopped"),
        of("WS(4, 0)", 3, 0.9),
        of("ER(0.2)", 4, None, "failed"),
        of("BA(2)", 5, 0.5, "promoted"),
        of("BA(2)", 5, 0.7),
    ]
    assert groups(rows, METRIC) == [
        Group("WS(4, 0)", 1, 0.9, 0.0),
        Group("BA(1)", 2, pytest.approx(0.7), pytest.approx(0.1 * 2**0.5)),
        Group("BA(2)", 1, 0.7, 0.0),
    ]
    assert [group.setting for group in groups([of("b", 0, 0.5), of("a", 1, 0.5)], METRIC)] == ["a", "b"]


def reported(tmp_path: Path, **changes: object) -> tuple[dict, list[Row]]:
    recipe: Recipe = small_recipe(tmp_path, **changes)
    rows = [
        row(0, "ok", 0.9, epoch=4, metrics={METRIC: 0.9, "test_accuracy": 0.875}, seconds=1.23456),
        row(1, "stopped", 0.5, epoch=1),
        row(2, "failed", None, epoch=2, reason="out of memory (x); try a smaller training.batch_size"),
    ]
    folder = tmp_path / "small-001"
    commit(Ledger(folder / "ledger"), rows)
    return report(Run(folder), recipe, rows), rows


def test_the_report_counts_and_goes_to_json(tmp_path: Path) -> None:
    found, _ = reported(tmp_path)
    assert found == json.loads(json.dumps(found, allow_nan=False))
    counts = ("run", "candidates", "finished", "stopped", "failed", "epochs_trained", "epochs_of_full_grid")
    assert [found[name] for name in counts] == ["small-001", 3, 1, 1, 1, 7, 12]
    assert found["stopping_depends_on_timing"] is False
    assert found["ledger_digest"] == Ledger(tmp_path / "small-001" / "ledger").digest()
    assert [line["candidate"] for line in found["ranking"]] == [0, 1, 2]
    first, _, last = found["ranking"]
    assert (first["place"], first[METRIC], first["test_accuracy"], first["seconds"]) == (1, 0.9, 0.875, 1.235)
    assert (first["params"], first["macs"], first["setting"]) == (1000, 20_000, "WS(4, 0.75)")
    assert last[METRIC] is None and last["reason"].startswith("out of memory")


def test_the_page_has_a_line_for_each_candidate_and_says_why_some_failed(tmp_path: Path) -> None:
    found, rows = reported(tmp_path)
    page = markdown(found, ["best-1.png"])
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert len(tables) == (2 + len(rows)) + (2 + 1)
    assert {line.count("|") for line in tables[:5]} == {11} and {line.count("|") for line in tables[5:]} == {
        5
    }
    assert "| 1 | 0 | WS(4, 0.75) | 1 | ok | 4 | 90.00 % | 87.50 % | 1,000 | 20,000 |" in page
    assert "| 3 | 2 | WS(4, 0.75) | 3 | failed | 2 |  |  |" in page
    assert "- candidate 2 (WS(4, 0.75)): out of memory (x); try a smaller training.batch_size" in page
    assert "1 trained to the end, 1 stopped early, 1 failed. 7 epochs were trained" in page
    assert "![best-1.png](pictures/best-1.png)" in page
    assert found["ledger_digest"] in page
    assert "ASHA" not in page


def test_the_page_says_when_stopping_depended_on_timing(tmp_path: Path) -> None:
    found, _ = reported(tmp_path, stopping={"kind": "asha", "eta": 2})
    assert found["stopping_depends_on_timing"] is True
    assert "ASHA" in markdown(found, []) and "depends on timing" in markdown(found, [])


def test_a_search_without_rows_is_reported_too(tmp_path: Path) -> None:
    found = report(Run(tmp_path / "small-001"), small_recipe(tmp_path), [])
    assert found["candidates"] == 0 and found["ranking"] == found["settings"] == []
    page = markdown(found, [])
    assert page.startswith("# small-001") and "Failed:" not in page
