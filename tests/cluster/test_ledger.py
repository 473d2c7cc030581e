"""The ledger and its recorder: written once, verified, in order."""

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.ledger import Ledger, Row, read_segment
from cluster.recorder import Entrant, Recorder
from networks.complexity import Complexity
from networks.errors import UserError
from tests.cluster.rows import METRIC, candidate, commit, report, row
from tests.cluster.threads import at_once


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def filled(ledger: Ledger) -> Ledger:
    for segment in ([row(0), row(1, accuracy=0.25)], [row(2)], [row(3, "failed", None, reason="why")]):
        commit(ledger, segment)
    return ledger


def test_rows_come_back_in_the_order_of_their_commit(ledger: Ledger) -> None:
    assert ledger.segments() == [] and list(ledger.rows()) == []
    filled(ledger)
    assert [path.name for path in ledger.segments()] == [f"{number:08d}.json" for number in range(3)]
    assert list(ledger.rows()) == [
        row(0),
        row(1, accuracy=0.25),
        row(2),
        row(3, "failed", None, reason="why"),
    ]
    assert [one.candidate.ask_index for one in ledger.rows(start=1)] == [2, 3]
    assert sorted(path.name for path in ledger.folder.iterdir()) == [path.name for path in ledger.segments()]


def test_of_two_writers_the_second_is_refused_and_nothing_is_lost(ledger: Ledger) -> None:
    other = Ledger(ledger.folder)
    ledger.append_at(0, [row(0)])
    with pytest.raises(FileExistsError):
        other.append_at(0, [row(1)])
    assert list(ledger.rows()) == [row(0)]
    assert [path.name for path in ledger.folder.iterdir()] == ["00000000.json"]


def test_writers_at_the_same_moment_get_one_place_between_them(ledger: Ledger) -> None:
    ledger.folder.mkdir()
    lost = at_once(8, lambda ask: ledger.append_at(0, [row(ask)]))
    assert len(lost) == 7 and all(isinstance(error, FileExistsError) for error in lost.values())
    assert {one.candidate.ask_index for one in ledger.rows()} == set(range(8)) - set(lost)


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077], ids=oct)
def test_segments_may_be_read_by_whom_the_umask_allows(ledger: Ledger, mask: int) -> None:
    before = os.umask(mask)
    try:
        ledger.append_at(0, [row(0)])
    finally:
        os.umask(before)
    assert ledger.segments()[0].stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_committed_segment_outlasts_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is synced after the segment has its name, and so is the one that holds a new folder."""
    ledger, said = Ledger(tmp_path / "run" / "ledger"), []
    real_sync, real_link = os.fsync, os.link

    def sync(handle: int) -> None:
        said.append(Path(os.readlink(f"/proc/self/fd/{handle}")))
        real_sync(handle)

    def link(draft: Path, path: Path) -> None:
        said.append("link")
        real_link(draft, path)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "link", link)
    ledger.append_at(0, [row(0)])
    place = said.index("link")
    assert said[place + 1 :] == [ledger.folder]
    assert said[place - 1].name.startswith(".00000000.json.")
    assert {tmp_path, tmp_path / "run"} <= set(said[:place])


def edited(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGE = {
    "truncated": lambda path: path.write_text(path.read_text()[:-20]),
    "empty": lambda path: path.write_text(""),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "a list": lambda path: path.write_text("[]"),
    "without rows": lambda path: path.write_text('{"segment": 1, "sha256": ""}'),
    "a metric altered": lambda path: path.write_text(path.read_text().replace("0.5", "0.75", 1)),
    "seconds altered": lambda path: path.write_text(
        path.read_text().replace('"seconds": 0.0', '"seconds": 9')
    ),
    "a row removed": lambda path: edited(path, rows=[]),
    "the checksum altered": lambda path: edited(path, sha256="0" * 64),
    "a copy of another": lambda path: path.write_bytes(path.with_name("00000000.json").read_bytes()),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_segment_is_refused_by_name(ledger: Ledger, damage) -> None:
    path = filled(ledger).segments()[1]
    whole = path.read_bytes()
    damage(path)
    assert path.read_bytes() != whole
    for read in (lambda: list(ledger.rows()), ledger.digest, lambda: read_segment(path)):
        with pytest.raises(UserError, match=r"ledger: .*00000001\.json"):
            read()


def test_a_segment_that_is_missing_is_named(ledger: Ledger) -> None:
    filled(ledger).segments()[1].unlink()
    for use in (lambda: list(ledger.rows()), ledger.segments, lambda: commit(ledger, [row(4)])):
        with pytest.raises(UserError, match=r"00000001\.json.*missing"):
            use()


def test_what_a_dead_writer_left_does_not_count(ledger: Ledger) -> None:
    filled(ledger)
    (ledger.folder / ".00000003.json.node-1-1.draft").write_text("half a segm")
    assert len(ledger.segments()) == 3
    commit(ledger, [row(4)])
    assert ledger.segments()[-1].name == "00000003.json"


def test_the_digest_is_of_what_was_found_not_of_how(tmp_path: Path) -> None:
    one, other, again = (Ledger(tmp_path / name) for name in "abc")
    commit(one, [row(0), row(1)])
    commit(other, [row(0, seconds=3.5, place="elsewhere:7", time=99)])
    commit(other, [row(1, seconds=0.5)])
    commit(again, [row(0), row(1, accuracy=0.5000000001)])
    assert one.digest() == other.digest()
    assert one.digest() != again.digest()


@pytest.mark.parametrize(
    "changes",
    [
        {"ask": 1},
        {"status": "stopped"},
        {"accuracy": 0.25},
        {"rung": 1},
        {"epoch": 3},
        {"reason": "x"},
        {"curve": ({"epoch": 1.0},)},
        {"architecture": "f" * 64},
        {"cost": Complexity(1)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_digest_covers_everything_else(changes: dict[str, object]) -> None:
    assert row().digest != row(**changes).digest
    assert row().digest == row(seconds=1.0, place="x", time=1).digest


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.floats(), max_size=4))
def test_any_metrics_come_back_as_they_were(tmp_path_factory, metrics: dict[str, float]) -> None:
    """NaN and infinities are kept too: a segment that holds them is as readable as any."""
    ledger = Ledger(tmp_path_factory.mktemp("ledger"))
    commit(ledger, [row(0, accuracy=None, metrics=metrics, curve=({"epoch": 1.0, **metrics},))])
    (found,) = ledger.rows()
    assert found.metrics.keys() == metrics.keys()
    for name, value in metrics.items():
        for back in (found.metrics[name], found.curve[0][name]):
            assert back == value or (math.isnan(back) and math.isnan(value))
    assert ledger.digest() == Ledger(ledger.folder).digest()


# Recorder -------------------------------------------------------------------------------------------


def entrants(count: int) -> list[Entrant]:
    return [
        Entrant(candidate(ask), row(ask).names, row(ask).architecture, row(ask).cost) for ask in range(count)
    ]


def test_a_row_joins_what_is_known_with_what_was_reported(ledger: Ledger) -> None:
    recorder = Recorder(ledger, entrants(2))
    heard: list[list[Row]] = []
    recorder.listeners.append(heard.append)
    told = report(1, 2, accuracy=0.5, seconds=2.5, place="host:1", time=77)
    committed = recorder.commit(0, [(told, "ok")])
    curve = ({"epoch": 1.0, METRIC: 0.5}, {"epoch": 2.0, METRIC: 0.5})
    expected = row(1, curve=curve, seconds=2.5, place="host:1", time=77)
    assert committed == list(ledger.rows()) == [expected]
    assert heard == [[expected]]


def test_pieces_of_a_curve_join_without_overlap_also_after_a_resume(ledger: Ledger) -> None:
    recorder = Recorder(ledger, entrants(2))
    recorder.commit(0, [(report(0, 1), "promoted"), (report(1, 1), "promoted")])
    recorder.commit(1, [(report(0, 3), "promoted")])
    resumed = Recorder(ledger, entrants(2))
    assert [one.epoch for one in resumed.replay()] == [1, 1, 3]
    resumed.commit(1, [(report(1, 3), "stopped")])
    resumed.commit(2, [(report(0, 9), "ok")])
    pieces: dict[int, list[float]] = {0: [], 1: []}
    for one in ledger.rows():
        pieces[one.candidate.ask_index] += [point["epoch"] for point in one.curve]
    assert pieces == {0: list(range(1, 10)), 1: [1, 2, 3]}


def test_a_failed_candidate_keeps_its_curve_and_reason_but_has_no_metrics(ledger: Ledger) -> None:
    recorder = Recorder(ledger, entrants(1))
    (found,) = recorder.commit(0, [(report(0, 2, status="failed", reason="no numbers"), "failed")])
    assert found.metrics == {} and found.reason == "no numbers" and len(found.curve) == 2


def test_a_second_recorder_cannot_write_over_the_first(ledger: Ledger) -> None:
    first, second = Recorder(ledger, entrants(2)), Recorder(ledger, entrants(2))
    told: list[list[Row]] = []
    second.listeners.append(told.append)
    first.commit(0, [(report(0, 1), "ok")])
    with pytest.raises(UserError, match="Another process is driving this run"):
        second.commit(0, [(report(1, 1), "ok")])
    assert [one.candidate.ask_index for one in ledger.rows()] == [0]
    assert told == []
