"""Structured logs: one JSON object a line, with run and candidate."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from cluster import logs
from cluster.experiment import Place, search
from cluster.logs import CANDIDATE, log_as_worker, logged
from cluster.recorder import Recorder
from cluster.run import Run
from cluster.tracker import WriterProcess
from tests.cluster.choices import tiny_recipe
from tests.cluster.rows import row
from tests.cluster.searches import new_grid, small_recipe

log = logging.getLogger("cluster.somewhere")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return new_grid(small_recipe(tmp_path / "runs")).run


def lines(run: Run) -> list[dict[str, str]]:
    return [json.loads(line) for line in (run.work / logs.FILE).read_text().splitlines()]


def test_every_line_says_when_where_and_of_what(run: Run) -> None:
    log.info("before: kept nowhere")
    with logged(run):
        log.info('a "quoted"\nline')
        log.warning("it failed", extra={CANDIDATE: "c" * 16})
        try:
            raise ZeroDivisionError("theirs")
        except ZeroDivisionError:
            log.exception("it broke")
    log.warning("after: kept nowhere")
    first, second, third = lines(run)
    assert (first["run"], first["level"], first["logger"]) == ("small-001", "INFO", "cluster.somewhere")
    assert first["message"] == 'a "quoted"\nline' and CANDIDATE not in first
    assert second[CANDIDATE] == "c" * 16
    assert "ZeroDivisionError: theirs" in third["error"]
    age = datetime.now(UTC) - datetime.fromisoformat(first["time"])
    assert 0 <= age.total_seconds() < 60


def test_a_resumed_search_goes_on_in_the_same_file(run: Run) -> None:
    for part in range(2):
        with logged(run):
            log.info("part %d", part)
    assert [one["message"] for one in lines(run)] == ["part 0", "part 1"]


def test_a_long_log_is_renamed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "BYTES", 2000)
    with logged(run):
        for number in range(200):
            log.info("line %d", number)
    kept = sorted(file.name for file in run.work.glob("log.jsonl*"))
    assert kept == ["log.jsonl", "log.jsonl.1", "log.jsonl.2", "log.jsonl.3"]
    assert all(file.stat().st_size <= 2000 for file in run.work.glob("log.jsonl*"))
    assert lines(run)[-1]["message"] == "line 199"


def test_failed_candidates_are_named_by_their_ids(run: Run) -> None:
    failed = row(1, status="failed", reason="the loss is NaN", metrics={})
    with logged(run):
        Recorder(run.ledger).write([row(0), failed])
    committed, failure = lines(run)
    assert committed["message"] == "segment 0 is committed, of 2 rows"
    assert failure[CANDIDATE] == failed.candidate.id and "the loss is NaN" in failure["message"]


def test_a_search_keeps_its_log_and_the_terminal_stays_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(WriterProcess, "start", lambda self: None)
    monkeypatch.setattr(WriterProcess, "drain", lambda *of: True)
    console = Console(record=True, width=120)
    outcome = search(tiny_recipe(tmp_path / "runs"), Place(local=True), console)
    said = [one["message"] for one in lines(outcome.run)]
    assert "segment 0 is committed, of" in said[0]
    assert "segment" not in console.export_text()


def test_a_process_of_rays_logs_for_one_run_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger(logs.WEFT)
    before = logger.handlers[:], logger.level, logger.propagate
    try:
        log_as_worker("first-001")
        log_as_worker("second-001")
        log.info("hello")
    finally:
        logger.handlers, logger.level, logger.propagate = before
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["run"] == "second-001"
