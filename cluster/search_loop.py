"""Ask, score, commit, tell: the loop of a search, one round at a time.

A round is asked for when the round `rounds_in_flight` before it was told; it is scored, committed to the
ledger as one segment, and then told, in ask order. So what is asked depends on the recipe alone, and a
ledger can be replayed: the searcher is asked again and told what is recorded.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from cluster.ledger import Row
from cluster.replica import Scored
from networks.complexity import Complexity
from networks.errors import UserError
from networks.spaces.choices import ChoiceSpace
from networks.spaces.space import Genes
from searchers.searcher import Candidate, Evaluation, Searcher


class Scorer(Protocol):
    """What the loop needs of a pool (cluster/pool.py)."""

    def submit(self, candidates: Sequence[Genes]) -> None: ...

    def collect(self, number: int) -> list[Scored]: ...


class Phase(NamedTuple):
    """A part of a search that asks by itself: ``search``, or ``random``, which it is compared with."""

    name: str
    searcher: Searcher


class SearchLoop:
    """`identity` and `space` make the candidates' ids. `commit` writes rows; `measured` gives costs that
    are not static (latency), by name; `objectives` must be among metrics and costs."""

    def __init__(
        self,
        identity: str,
        space: ChoiceSpace,
        phases: Sequence[Phase],
        commit: Callable[[list[Row]], object],
        *,
        round_size: int,
        rounds_in_flight: int = 1,
        measured: Callable[[Genes], Mapping[str, float]] = lambda genes: {},
        numerics: str = "",
    ) -> None:
        self._identity, self._space, self._digest = identity, space, space.digest
        self.phases, self._commit = deque(phases), commit
        self._round, self._depth = round_size, rounds_in_flight
        self._measured, self._numerics = measured, numerics
        self._asked: deque[tuple[Phase, list[Candidate]]] = deque()
        self._submitted = 0  # of the rounds in `_asked`
        self.asks = 0
        self.evaluations = 0

    @property
    def finished(self) -> bool:
        """Everything was asked, committed and told."""
        self._fill()
        return not self._asked

    def advance(self, pool: Scorer) -> list[Row]:
        """Score, commit and tell one round; its rows."""
        self._fill()
        for _, candidates in list(self._asked)[self._submitted :]:
            pool.submit([candidate.genes for candidate in candidates])
            self._submitted += 1
        phase, candidates = self._asked.popleft()
        self._submitted -= 1
        scored = pool.collect(len(candidates))
        rows = [self._row(candidate, one) for candidate, one in zip(candidates, scored, strict=True)]
        self._commit(rows)
        self._tell(phase, rows)
        return rows

    def replay(self, rows: Sequence[Row]) -> None:
        """Go over committed rows, in order: ask again, and tell what is recorded. Raises `UserError` when
        something else is asked than was then."""
        position = 0
        while position < len(rows):
            self._fill()
            if not self._asked:
                raise _other(rows[position], None)
            phase, candidates = self._asked.popleft()
            recorded = rows[position : position + len(candidates)]
            for candidate, row in zip(candidates, recorded, strict=False):
                if row.candidate != candidate:
                    raise _other(row, candidate)
            if len(recorded) < len(candidates):
                raise UserError("ledger", len(rows), "whole rounds", "A round was committed in part.")
            self._tell(phase, recorded)
            position += len(candidates)

    def _fill(self) -> None:
        """Ask until enough rounds are in flight. The next phase begins when the one before is told."""
        while self.phases and len(self._asked) < self._depth:
            phase = self.phases[0]
            if self._asked and self._asked[-1][0] is not phase:
                return
            genes = [] if phase.searcher.finished else phase.searcher.ask(self._round)
            if genes:
                self._asked.append((phase, [self._candidate(one, phase) for one in genes]))
            elif self._asked:
                return  # it waits for what is in flight
            elif phase.searcher.finished:
                self.phases.popleft()
            else:
                raise RuntimeError(f"the searcher of phase {phase.name!r} neither asks nor finishes")

    def _candidate(self, genes: Genes, phase: Phase) -> Candidate:
        candidate = Candidate.of(self._identity, self._digest, genes, self.asks, phase.name)
        self.asks += 1
        return candidate

    def _row(self, candidate: Candidate, scored: Scored) -> Row:
        genes = candidate.genes
        legal = self._space.legal(genes)
        return Row.model_construct(
            candidate=candidate,
            names=self._space.names(genes) if legal else {},
            architecture="",
            cost=self._space.cost(genes) if legal else Complexity(),
            rung=0,
            epoch=0,
            status="failed" if scored.reason else "ok",
            reason=scored.reason,
            metrics={} if scored.reason else {**scored.metrics, **self._measured(genes)},
            curve=(),
            seconds=scored.seconds,
            place=scored.place,
            time=time.time_ns() // 1_000_000,
            numerics=self._numerics,
        )

    def _tell(self, phase: Phase, rows: Sequence[Row]) -> None:
        phase.searcher.tell([evaluation_of(row) for row in rows])
        self.evaluations += len(rows)


def evaluation_of(row: Row) -> Evaluation:
    """What a searcher is told of a row: metrics and static costs."""
    return Evaluation.model_construct(
        candidate=row.candidate,
        status="failed" if row.status == "failed" else "ok",
        metrics={**row.metrics, **row.cost._asdict()},
        reason=row.reason,
    )


def value_of(row: Row, metric: str, maximise: bool = True) -> float:
    """A metric or static cost of a row, higher is better; -inf where it failed or has none."""
    number = {**row.metrics, **row.cost._asdict()}.get(metric, math.nan)
    if row.status == "failed" or not math.isfinite(number):
        return -math.inf
    return number if maximise else -number


def _other(row: Row, candidate: Candidate | None) -> UserError:
    asked = "nothing more" if candidate is None else f"genes {list(candidate.genes)}"
    return UserError(
        "ledger", row.candidate.id, "candidates that this recipe's searcher asks for",
        f"At ask {row.candidate.ask_index} it asks for {asked}, where genes {list(row.candidate.genes)} are "
        "recorded. The run is of another version or was altered.",
    )  # fmt: skip
