"""The barrier: one ledger, whatever order reports arrive in and however often drivers and trials die."""

import math
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster.barrier import Barrier, NoBarrier
from cluster.ledger import Ledger, RowStatus
from cluster.recorder import Recorder
from cluster.trial import Report
from networks.errors import UserError
from searchers.halving import rungs
from tests.cluster.rows import METRIC, report
from tests.cluster.test_ledger import entrants

Outcome = tuple[int, int, int, RowStatus]  # rung, ask, epoch, status


class Plan(NamedTuple):
    """What the candidates of a search will do. `fails`: ask -> the epoch in which it fails; 0 = set-up."""

    candidates: int
    epochs: int
    grace: int
    eta: int
    levels: int  # how many different scores there are: few give ties
    fails: dict[int, int]

    @property
    def marks(self) -> list[int]:
        return rungs(self.epochs, self.grace, self.eta)

    def score(self, ask: int, epoch: int) -> float:
        return random.Random(f"{ask}/{epoch}").randrange(self.levels) / self.levels

    def report(self, ask: int, epoch: int) -> Report:
        """Of a trial that is asked for this epoch."""
        failed = self.fails.get(ask, self.epochs + 1) <= epoch
        trained = max(0, self.fails[ask] - 1) if failed else epoch
        curve = [{"epoch": mark, METRIC: self.score(ask, mark)} for mark in range(1, trained + 1)]
        reason = {"status": "failed", "reason": f"at {self.fails[ask]}"} if failed else {}
        return Report.model_validate({"ask_index": ask, "epoch": trained, "curve": curve, **reason})

    def outcomes(self) -> list[Outcome]:
        """What the ledger must hold, by the definition of synchronous successive halving."""
        found: list[Outcome] = []
        members = list(range(self.candidates))
        for rung, mark in enumerate(self.marks):
            reports = {ask: self.report(ask, mark) for ask in members}
            fit = [ask for ask in members if reports[ask].status == "running"]
            best = sorted(fit, key=lambda ask: (-self.score(ask, mark), ask))
            going = best[: math.ceil(len(members) / self.eta)] if mark < self.epochs else []
            last: RowStatus = "stopped" if mark < self.epochs else "ok"
            for ask in members:
                status = "promoted" if ask in going else last if ask in fit else "failed"
                found.append((rung, ask, reports[ask].epoch, status))
            members = sorted(going)
        return found


class World:
    """Trials and a driver that die at random moments, against one ledger. A trial's checkpoint survives it;
    a restarted one reports its last epoch again."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.ledger = plan, Ledger(folder)
        self.checkpoint = dict.fromkeys(range(plan.candidates), 0)
        self.restart_driver()

    def restart_driver(self) -> None:
        recorder = Recorder(self.ledger, entrants(self.plan.candidates))
        self.barrier = Barrier(recorder, range(self.plan.candidates), self.plan.marks, self.plan.eta, METRIC)
        self.barrier.replay(recorder.replay())
        self.repeats = {ask for ask, epoch in self.checkpoint.items() if epoch}

    def step(self, ask: int) -> None:
        """The next report of a candidate that may run."""
        epoch = self.checkpoint[ask]
        if ask in self.repeats:
            self.repeats.remove(ask)
        elif epoch < self.plan.epochs:
            epoch += 1
        told = self.plan.report(ask, epoch)
        self.checkpoint[ask] = told.epoch
        verdict = self.barrier.arrive(told)
        assert verdict in ("go", "wait", "stop")
        if told.status == "failed":
            assert verdict != "go"
        waits = verdict != "go"
        assert waits == (ask not in self.barrier.open)

    def outcomes(self) -> list[Outcome]:
        return [(row.rung, row.candidate.ask_index, row.epoch, row.status) for row in self.ledger.rows()]


plans = st.builds(
    Plan,
    candidates=st.integers(1, 9),
    epochs=st.integers(1, 9),
    grace=st.integers(1, 3),
    eta=st.integers(2, 4),
    levels=st.integers(1, 6),
    fails=st.dictionaries(st.integers(0, 8), st.integers(0, 9), max_size=4),
)


@settings(derandomize=True, max_examples=80, deadline=None)
@given(plan=plans, draws=st.randoms(use_true_random=False), deaths=st.sampled_from([0.0, 0.1, 0.3]))
@example(plan=Plan(6, 4, 1, 2, 4, dict.fromkeys(range(6), 0)), draws=random.Random(0), deaths=0.1)
@example(plan=Plan(5, 4, 1, 2, 1, {4: 4}), draws=random.Random(1), deaths=0.0)
@example(plan=Plan(1, 1, 1, 2, 1, {}), draws=random.Random(2), deaths=0.3)
def test_any_order_of_reports_and_deaths_gives_the_same_ledger(
    plan: Plan, draws: random.Random, deaths: float
) -> None:
    expected = plan.outcomes()
    with tempfile.TemporaryDirectory() as folder:
        world, segments = World(plan, Path(folder)), 0
        for _ in range(10_000):
            if world.barrier.done:
                break
            assert world.barrier.open, "candidates are left and none may run: a wait without end"
            luck = draws.random()
            if luck < deaths / 4:
                world.restart_driver()
            elif luck < deaths:  # a trial dies, here also one that waits or has ended, and repeats itself
                ask = draws.randrange(plan.candidates)
                if world.checkpoint[ask]:
                    told = world.barrier.arrive(plan.report(ask, world.checkpoint[ask]))
                    assert told == world.barrier.verdict(ask)
            else:
                world.step(draws.choice(world.barrier.open))
            if len(world.ledger.segments()) > segments:
                segments = len(world.ledger.segments())
                assert world.outcomes() == expected[: len(world.outcomes())]
        assert world.barrier.done and not world.barrier.unfinished and not world.barrier.open
        assert world.outcomes() == expected
        for ask in range(plan.candidates):
            rows = [row for row in world.ledger.rows() if row.candidate.ask_index == ask]
            epochs = [point["epoch"] for row in rows for point in row.curve]
            assert epochs == list(range(1, len(epochs) + 1))
            assert [row.final for row in rows] == [False] * (len(rows) - 1) + [True]
            assert world.barrier.verdict(ask) == "stop"


def run_through(world: World, choose: Callable[[list[int]], int]) -> None:
    while not world.barrier.done:
        world.step(choose(world.barrier.open))


PLAN = Plan(16, 9, 1, 2, 50, {2: 1, 7: 3})


def test_first_and_last_come_give_the_same_digest(tmp_path: Path) -> None:
    digests = set()
    for name, choose in (("first", min), ("last", max)):
        world = World(PLAN, tmp_path / name)
        run_through(world, choose)
        digests.add(world.ledger.digest())
    assert len(digests) == 1


def test_every_prefix_of_segments_is_continued_to_the_same_ledger(tmp_path: Path) -> None:
    whole = World(PLAN, tmp_path / "whole")
    run_through(whole, min)
    segments = whole.ledger.segments()
    assert len(segments) >= 5
    for length in range(len(segments) + 1):
        world = World(PLAN, tmp_path / f"prefix-{length}")
        world.ledger.folder.mkdir()
        for path in segments[:length]:
            (world.ledger.folder / path.name).write_bytes(path.read_bytes())
        for row in world.ledger.rows():
            world.checkpoint[row.candidate.ask_index] = row.epoch
        world.restart_driver()
        run_through(world, max)
        assert world.ledger.digest() == whole.ledger.digest()


def barrier(tmp_path: Path, candidates: int, marks: list[int], eta: int = 2) -> tuple[Barrier, Ledger]:
    ledger = Ledger(tmp_path / "ledger")
    recorder = Recorder(ledger, entrants(candidates))
    return Barrier(recorder, range(candidates), marks, eta, METRIC), ledger


def test_verdicts_at_a_rung(tmp_path: Path) -> None:
    held, ledger = barrier(tmp_path, 3, [2, 4])
    assert held.open == [0, 1, 2]
    assert held.arrive(report(1, 1)) == "go"
    assert held.arrive(report(1, 2, accuracy=0.9)) == "wait"
    assert held.arrive(report(0, 2, accuracy=0.1)) == "wait"
    assert held.open == [2]
    assert held.arrive(report(1, 2, accuracy=0.9)) == "wait"  # said again
    assert not ledger.segments()
    assert held.arrive(report(2, 2, accuracy=0.5)) == "go"
    assert [(row.candidate.ask_index, row.status) for row in ledger.rows()] == [
        (0, "stopped"), (1, "promoted"), (2, "promoted"),
    ]  # fmt: skip
    assert [held.verdict(ask) for ask in range(3)] == ["stop", "go", "go"]
    assert held.arrive(report(0, 2, accuracy=0.1)) == "stop"
    assert held.arrive(report(1, 2, accuracy=0.9)) == "go"
    assert held.unfinished == {1, 2}
    assert len(ledger.segments()) == 1


def test_the_last_rung_is_written_in_ask_order_and_nobody_waits(tmp_path: Path) -> None:
    held, ledger = barrier(tmp_path, 3, [2], eta=1)
    assert held.arrive(report(2, 2)) == "stop"
    assert held.open == [0, 1] and not ledger.segments()
    assert held.arrive(report(0, 2)) == "stop"
    assert [row.candidate.ask_index for row in ledger.rows()] == [0]
    assert held.arrive(report(2, 2)) == "stop"
    assert held.arrive(report(1, 1, status="failed", reason="why")) == "stop"
    assert [(row.candidate.ask_index, row.status) for row in ledger.rows()] == [
        (0, "ok"), (1, "failed"), (2, "ok"),
    ]  # fmt: skip
    assert held.done


def test_those_who_go_on_run_in_ask_order(tmp_path: Path) -> None:
    held, _ = barrier(tmp_path, 4, [1, 2, 4])
    for ask in range(4):
        held.arrive(report(ask, 1, accuracy=ask / 10))
    assert held.open == [2, 3]
    held.arrive(report(3, 2))
    assert held.open == [2]


def test_a_candidate_given_up_from_outside_does_not_hold_the_others(tmp_path: Path) -> None:
    held, ledger = barrier(tmp_path, 3, [1, 2])
    held.arrive(report(0, 1))
    held.arrive(report(2, 1))
    held.fail(Report(ask_index=1, epoch=0, status="failed", reason="its process died"))
    assert [row.status for row in ledger.rows()] == ["promoted", "failed", "promoted"]
    held.fail(Report(ask_index=0, epoch=0, status="failed", reason="its process died"))
    held.arrive(report(2, 2))
    assert [(row.candidate.ask_index, row.status) for row in ledger.rows(start=1)] == [
        (0, "failed"), (2, "ok"),
    ]  # fmt: skip
    assert held.done


def test_with_every_candidate_failed_the_search_ends(tmp_path: Path) -> None:
    held, ledger = barrier(tmp_path, 3, [1, 2, 4])
    for ask in (2, 0, 1):
        held.arrive(report(ask, 0, status="failed", reason="why"))
    assert held.done and held.open == []
    assert [row.status for row in ledger.rows()] == ["failed"] * 3


def test_a_report_past_its_rung_is_an_error(tmp_path: Path) -> None:
    held, _ = barrier(tmp_path, 2, [2, 4])
    with pytest.raises(RuntimeError, match="candidate 1 is at epoch 3, past its rung at 2"):
        held.arrive(report(1, 3))


def test_rows_are_committed_before_anybody_goes_on(tmp_path: Path) -> None:
    """When the commit fails nobody is promoted, and the same reports bring the same decision later."""
    held, ledger = barrier(tmp_path, 2, [1, 2])
    held.arrive(report(0, 1, accuracy=0.9))
    Ledger(ledger.folder).append_at(0, [])
    with pytest.raises(UserError, match="Another process"):
        held.arrive(report(1, 1))
    assert held.open == [] and held.unfinished == {0, 1}


# Without a barrier ----------------------------------------------------------------------------------


def no_barrier(tmp_path: Path) -> tuple[NoBarrier, Ledger]:
    ledger = Ledger(tmp_path / "ledger")
    return NoBarrier(Recorder(ledger, entrants(4)), range(4), [1, 3, 9]), ledger


def test_without_a_barrier_candidates_end_when_they_end(tmp_path: Path) -> None:
    held, ledger = no_barrier(tmp_path)
    assert [held.verdict(ask) for ask in range(4)] == ["go"] * 4
    held.end(report(2, 1), "stopped")
    held.end(report(0, 9), "ok")
    held.end(report(2, 1), "stopped")  # said again
    held.fail(report(1, 2, status="failed", reason="why"))
    assert not held.done and held.verdict(2) == "stop" and held.verdict(3) == "go"
    held.end(report(3, 3), "stopped")
    assert held.done
    rows = [(row.candidate.ask_index, row.rung, row.epoch, row.status) for row in ledger.rows()]
    assert rows == [(2, 0, 1, "stopped"), (0, 2, 9, "ok"), (1, 1, 2, "failed"), (3, 1, 3, "stopped")]
    assert len(ledger.segments()) == 4


def test_without_a_barrier_the_ended_are_not_run_again(tmp_path: Path) -> None:
    held, ledger = no_barrier(tmp_path)
    held.end(report(2, 1), "stopped")
    again = NoBarrier(Recorder(ledger, entrants(4)), range(4), [1, 3, 9])
    again.replay(list(ledger.rows()))
    assert again.unfinished == {0, 1, 3} and again.verdict(2) == "stop"
    again.end(report(2, 3), "ok")
    assert len(ledger.segments()) == 1
