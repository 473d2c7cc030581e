"""The barrier of a grid: who goes on, who waits and who stops, decided a whole rung at a time.

Every driver asks the same barrier, so that what a search decides does not depend on what runs it. A rung
is decided when all its members have arrived; its rows are committed before anybody goes on. `NoBarrier`
stands in its place where Tune's ASHA decides.
"""

from collections.abc import Sequence
from typing import Literal

from cluster.ledger import Row, RowStatus
from cluster.recorder import Recorder
from cluster.trial import Report
from searchers.halving import survivors

Verdict = Literal["go", "wait", "stop"]


class Barrier:
    """`asks`: the candidates' ask indices. `rungs`: epochs at which they meet; at the last they are done.

    At a rung before the last, the best 1/eta by `metric` go on. At the last nobody waits: its rows are
    committed in ask order as soon as all earlier ones are there.
    """

    def __init__(
        self, recorder: Recorder, asks: Sequence[int], rungs: Sequence[int], eta: int, metric: str
    ) -> None:
        self._recorder, self._rungs, self._eta, self._metric = recorder, list(rungs), eta, metric
        self._members: list[list[int]] = [sorted(asks)] + [[] for _ in rungs[1:]]
        self._rung = dict.fromkeys(asks, 0)
        self._arrived: dict[int, Report] = {}  # at their current rung, not committed
        self._final: set[int] = set()

    def replay(self, rows: Sequence[Row]) -> None:
        """Take over what an earlier driver committed."""
        for row in rows:
            ask = row.candidate.ask_index
            if row.final:
                self._final.add(ask)
            else:
                self._promote(ask, row.rung + 1)

    def arrive(self, report: Report) -> Verdict:
        """A trial has reported. A report of an epoch that was decided already changes nothing."""
        ask = report.ask_index
        if ask in self._final:
            return "stop"
        mark = self._rungs[self._rung[ask]]
        if report.status == "running" and report.epoch < mark:
            return self.verdict(ask)
        if report.epoch > mark:
            raise RuntimeError(f"candidate {ask} is at epoch {report.epoch}, past its rung at {mark}")
        self._arrived[ask] = report
        if self._rung[ask] == len(self._rungs) - 1:
            self._finish_in_order()
            return "stop"
        self._decide(self._rung[ask])
        return self.verdict(ask)

    def fail(self, report: Report) -> None:
        """A candidate is given up from outside."""
        self.arrive(report)

    def verdict(self, ask: int) -> Verdict:
        """What a candidate may do now."""
        if ask in self._final:
            return "stop"
        if ask in self._arrived:
            return "stop" if self._rung[ask] == len(self._rungs) - 1 else "wait"
        return "go"

    @property
    def open(self) -> list[int]:
        """Candidates that may run, those of the lowest rung first, in ask order."""
        asks = (ask for ask in self._rung if self.verdict(ask) == "go")
        return sorted(asks, key=lambda ask: (self._rung[ask], ask))

    @property
    def unfinished(self) -> set[int]:
        return set(self._rung) - self._final

    @property
    def to_run(self) -> list[int]:
        """Candidates that need a trial: neither final nor failed while their rung is open. Ascending."""
        failed = {ask for ask, report in self._arrived.items() if report.status == "failed"}
        return sorted(self.unfinished - failed)

    @property
    def done(self) -> bool:
        return not self.unfinished

    def _decide(self, rung: int) -> None:
        members = self._members[rung]
        if any(ask not in self._arrived for ask in members):
            return
        reports = {ask: self._arrived[ask] for ask in members}
        scores = {
            ask: None if report.status == "failed" else report.metrics[self._metric]
            for ask, report in reports.items()
        }
        going = set(survivors(scores, self._eta))
        outcomes: list[tuple[Report, RowStatus]] = [
            (report, _status(report, "promoted" if ask in going else "stopped"))
            for ask, report in reports.items()
        ]
        self._recorder.commit(rung, outcomes)
        for ask in members:
            del self._arrived[ask]
            if ask in going:
                self._promote(ask, rung + 1)
            else:
                self._final.add(ask)

    def _promote(self, ask: int, rung: int) -> None:
        self._rung[ask] = rung
        self._members[rung] = sorted({*self._members[rung], ask})

    def _finish_in_order(self) -> None:
        last = len(self._rungs) - 1
        outcomes: list[tuple[Report, RowStatus]] = []
        for ask in self._members[last]:
            if ask in self._final:
                continue
            if ask not in self._arrived:
                break
            outcomes.append((self._arrived[ask], _status(self._arrived[ask], "ok")))
        if outcomes:
            self._recorder.commit(last, outcomes)
        for report, _ in outcomes:
            del self._arrived[report.ask_index]
            self._final.add(report.ask_index)


class NoBarrier:
    """Candidates that end on their own, each a segment of its own, in the order in which they end."""

    def __init__(self, recorder: Recorder, asks: Sequence[int], rungs: Sequence[int]) -> None:
        self._recorder, self._rungs, self.unfinished = recorder, list(rungs), set(asks)

    def replay(self, rows: Sequence[Row]) -> None:
        self.unfinished -= {row.candidate.ask_index for row in rows}

    def end(self, report: Report, status: RowStatus) -> None:
        if report.ask_index in self.unfinished:
            rung = sum(mark < report.epoch for mark in self._rungs)
            self._recorder.commit(rung, [(report, status)])
            self.unfinished.remove(report.ask_index)

    def fail(self, report: Report) -> None:
        """A candidate is given up from outside."""
        self.end(report, "failed")

    def verdict(self, ask: int) -> Verdict:
        return "go" if ask in self.unfinished else "stop"

    @property
    def to_run(self) -> list[int]:
        return sorted(self.unfinished)

    @property
    def done(self) -> bool:
        return not self.unfinished


def _status(report: Report, otherwise: RowStatus) -> RowStatus:
    return "failed" if report.status == "failed" else otherwise
