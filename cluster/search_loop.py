"""Ask, score, commit, tell: the loop of a search, one round at a time.

A round is asked for when the round `rounds_in_flight` before it was told; it is scored, committed to the
ledger as one segment, and then told, in ask order. So what is asked depends on the recipe alone, and a
ledger can be replayed: the searcher is asked again and told what is recorded.

A search that was extended goes through its phases again: search, random, search, random. A searcher asks as
if its phases were one. A round that ends where a phase does not is committed in two parts, and told when both
are there: what is asked does not depend on where the search once ended.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from cluster.ledger import Row
from cluster.messages import Scored
from networks.complexity import Complexity
from networks.errors import UserError
from networks.spaces.choices import ChoiceSpace
from networks.spaces.space import Genes
from searchers.searcher import Candidate, Evaluation, Part, Rewriter, Searcher


class Scorer(Protocol):
    """What the loop needs of a pool (cluster/pool.py)."""

    def submit(self, candidates: Sequence[Genes], part: Part | None) -> None: ...

    def collect(self, number: int) -> list[Scored]: ...


class Phase(NamedTuple):
    """A part of a search that asks by itself: ``search``, or ``random``, which it is compared with. Phases of
    one name share a searcher. `until`: so many of its candidates, with those of the phases before, end this
    one; None: it ends when the searcher finishes."""

    name: str
    searcher: Searcher
    until: int | None = None


class Rounds:
    """When a searcher is asked: for `size` candidates at a time, with at most `depth` such rounds asked for
    and not told. With rounds of one, ask i comes after exactly the tells up to i - depth (DESIGN 4.1).

    A search and a bench on a table go by this one rule, so that they ask alike. `open` holds the rounds that
    are in flight; who drives takes the oldest and tells it.
    """

    def __init__(self, searcher: Searcher, size: int, depth: int) -> None:
        self._searcher, self._size, self._depth = searcher, size, depth
        self.open: deque[list[Genes]] = deque()

    def fill(self) -> list[list[Genes]]:
        """Ask until enough rounds are in flight; those that were added. A searcher that waits may give a
        smaller round, or none. Without any in `open` after this the search is over."""
        added: list[list[Genes]] = []
        while len(self.open) < self._depth:
            genes = [] if self._searcher.finished else self._searcher.ask(self._size)
            if not genes:
                break
            self.open.append(genes)
            added.append(genes)
        if not self.open and not self._searcher.finished:
            raise RuntimeError("the searcher neither asks nor finishes")
        return added


class Stream:
    """What one searcher asks for, over all of its phases, and what it is told."""

    def __init__(self, searcher: Searcher, size: int, depth: int) -> None:
        self.searcher, self._rounds = searcher, Rounds(searcher, size, depth)
        self._waiting: deque[list[Genes]] = deque()  # asked for, and in no phase yet
        self._told: list[Evaluation] = []  # of a round of which a part is missing
        self.taken = 0

    def take(self, until: int | None) -> list[list[Genes]]:
        """Ask for what may be asked for now; what of it is in a phase that ends there, round by round."""
        self._waiting += self._rounds.fill()
        parts = []
        while self._waiting and (until is None or self.taken < until):
            genes = self._waiting.popleft()
            room = len(genes) if until is None else until - self.taken
            if genes[room:]:
                self._waiting.appendleft(genes[room:])
            parts.append(genes[:room])
            self.taken += len(parts[-1])
        return parts

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Those of the oldest round, or of a part of it."""
        self._told += evaluations
        if len(self._told) == len(self._rounds.open[0]):
            self._rounds.open.popleft()
            self.searcher.tell(self._told)
            self._told = []


class Asked(NamedTuple):
    """A round, and what it is scored on. `learning`: it is only learnt from."""

    all: list[Candidate]
    part: Part | None
    learning: bool


class SearchLoop:
    """`identity` and `space` make the candidates' ids. `commit` writes rows; `measured` gives costs that
    are not static (latency), by name. A candidate without one of the scores `needed` has failed."""

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
        needed: Collection[str] = (),
        numerics: str = "",
    ) -> None:
        self._identity, self._space, self._digest = identity, space, space.digest
        self.phases, self._commit = deque(phases), commit
        self._streams = {
            phase.name: Stream(phase.searcher, round_size, rounds_in_flight) for phase in self.phases
        }
        self._measured, self._needed, self._numerics = measured, frozenset(needed), numerics
        self._asked: deque[Asked] = deque()  # the open rounds of the first phase
        self._newest: dict[
            Genes, str
        ] = {}  # the id of the last candidate with these genes, for what descends
        self._origins: dict[str, tuple[str, str]] = {}  # parent and edit, by id
        self._submitted = 0  # of the rounds in `_asked`
        self.asks = 0
        self.evaluations = 0

    @property
    def finished(self) -> bool:
        """Everything was asked, committed and told."""
        self._fill()
        return not self._asked

    @property
    def learnt(self) -> int:
        """How often a searcher that rewrites has learnt so far."""
        searcher = self._streams["search"].searcher
        return searcher.learnt if isinstance(searcher, Rewriter) else 0

    @property
    def in_part(self) -> bool:
        """Whether the next round is scored on a part of the images."""
        self._fill()
        return bool(self._asked) and self._asked[0].part is not None

    def advance(self, pool: Scorer) -> list[Row]:
        """Score, commit and tell one round; its rows."""
        self._fill()
        for asked in list(self._asked)[self._submitted :]:
            pool.submit([candidate.genes for candidate in asked.all], asked.part)
            self._submitted += 1
        candidates, _, learning = self._asked[0]
        scored = pool.collect(len(candidates))
        rows = [
            self._row(candidate, one, learning) for candidate, one in zip(candidates, scored, strict=True)
        ]
        self._commit(rows)
        self._submitted -= 1
        self._tell(rows)
        return rows

    def replay(self, rows: Sequence[Row]) -> None:
        """Go over committed rows, in order: ask again, and tell what is recorded. Raises `UserError` when
        something else is asked than was then."""
        position = 0
        while position < len(rows):
            self._fill()
            if not self._asked:
                raise _other(rows[position], None)
            candidates = self._asked[0].all
            recorded = rows[position : position + len(candidates)]
            for candidate, row in zip(candidates, recorded, strict=False):
                if row.candidate != candidate:
                    raise _other(row, candidate)
            if len(recorded) < len(candidates):
                raise UserError("ledger", len(rows), "whole rounds", "A round was committed in part.")
            self._tell(recorded)
            position += len(candidates)

    def _fill(self) -> None:
        """Ask for what may be asked for now. The next phase begins when the one before is told."""
        while self.phases:
            phase = self.phases[0]
            for genes in self._streams[phase.name].take(phase.until):
                rewriter = phase.searcher if isinstance(phase.searcher, Rewriter) else None
                part, learning = (rewriter.part, rewriter.learning) if rewriter else (None, False)
                asked = [self._candidate(one, phase) for one in genes]
                self._asked.append(Asked(asked, part, learning))
            if self._asked:
                return
            self.phases.popleft()

    def _candidate(self, genes: Genes, phase: Phase) -> Candidate:
        candidate = Candidate.of(self._identity, self._digest, genes, self.asks, phase.name)
        self.asks += 1
        if isinstance(phase.searcher, Rewriter):
            self._newest[genes] = candidate.id
            parent = phase.searcher.parent(genes)
            if parent is not None:
                self._origins[candidate.id] = self._newest[parent], self._space.edit(parent, genes)
        return candidate

    def _row(self, candidate: Candidate, scored: Scored, learning: bool) -> Row:
        genes = candidate.genes
        legal = self._space.legal(genes)
        parent, edit = self._origins.pop(candidate.id, ("", ""))
        measured = {} if learning else self._measured(genes)  # builds a network and runs it
        failed = bool(scored.reason) and (not scored.metrics or not self._needed <= scored.metrics.keys())
        return Row.model_construct(
            candidate=candidate,
            names=self._space.names(genes) if legal else {},
            architecture="",
            cost=self._space.cost(genes) if legal else Complexity(),
            rung=0,
            epoch=0,
            status="failed" if failed else "ok",
            reason=scored.reason,
            metrics=scored.metrics if failed else {**measured, **scored.metrics},
            curve=(),
            seconds=scored.seconds,
            place=scored.place,
            time=time.time_ns() // 1_000_000,
            numerics=self._numerics,
            parent=parent,
            edit=edit,
        )

    def _tell(self, rows: Sequence[Row]) -> None:
        """Those of the oldest round in flight."""
        self._asked.popleft()
        self._streams[self.phases[0].name].tell([evaluation_of(row) for row in rows])
        self.evaluations += len(rows)


def evaluation_of(row: Row) -> Evaluation:
    """What a searcher is told of a row: metrics and static costs. Of one name the metric counts: who asks for
    a table's column `params` means the table's."""
    return Evaluation.model_construct(
        candidate=row.candidate,
        status="failed" if row.status == "failed" else "ok",
        metrics={**row.cost._asdict(), **row.metrics},
        reason=row.reason,
    )


def value_of(row: Row, metric: str, maximise: bool = True) -> float:
    """A metric or static cost of a row, higher is better; -inf where it failed or has none."""
    number = {**row.cost._asdict(), **row.metrics}.get(metric, math.nan)
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
