"""The order of asks, commits and tells, and that any interrupted search goes on as if undisturbed."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cluster.ledger import Ledger, Row, read_segment
from cluster.messages import Scored
from cluster.recorder import Recorder
from cluster.search_loop import Phase, SearchLoop, evaluation_of, value_of
from networks.complexity import Complexity
from networks.errors import UserError
from networks.spaces.space import Genes
from searchers.searcher import Candidate, Evaluation, Part
from tests.cluster.choices import chain_space
from tests.cluster.rows import row

SPACE = chain_space()
Event = tuple[str, int]


class Asker:
    """Asks for genes that depend on everything told before; waits after every `generation` asks until all
    of them are told. Notes each ask and tell."""

    def __init__(self, budget: int, generation: int | None = None, log: list[Event] | None = None) -> None:
        self.budget, self.generation = budget, generation or budget
        self.log: list[Event] = [] if log is None else log
        self.told: list[Evaluation] = []
        self.asked = 0
        self._state = 0

    def ask(self, n: int) -> list[Genes]:
        found: list[Genes] = []
        while len(found) < n and not self.finished:
            if self.asked % self.generation == 0 and len(self.told) < self.asked:
                break
            self.log.append(("ask", self.asked))
            found.append(digits(97 * self.asked + self._state))
            self.asked += 1
        return found

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for one in evaluations:
            self.log.append(("tell", len(self.told)))
            self.told.append(one)
            self._state = (3 * self._state + int(one.metrics.get("score", 7))) % SPACE.size

    @property
    def finished(self) -> bool:
        return self.asked >= self.budget

    def state_dict(self) -> dict[str, object]:
        raise AssertionError("the loop saves no searcher")

    def load_state_dict(self, state: dict[str, object]) -> None:
        raise AssertionError("the loop saves no searcher")


def digits(number: int) -> Genes:
    return tuple(number // 3**place % 3 for place in range(8))


class Scores:
    """A pool whose score is a function of the genes; some fail. Raises at a chosen call."""

    def __init__(self, fail: Callable[[Genes], bool] = lambda genes: False, cut: Event | None = None) -> None:
        self._fail, self._cut = fail, cut
        self._queue: list[Genes] = []
        self.calls = {"submit": 0, "collect": 0}
        self.most = 0

    def _count(self, call: str) -> None:
        if self._cut == (call, self.calls[call]):
            raise KeyboardInterrupt
        self.calls[call] += 1

    def submit(self, candidates: Sequence[Genes], part: Part | None = None) -> None:
        self._count("submit")
        self._queue += candidates
        self.most = max(self.most, len(self._queue))

    def collect(self, number: int) -> list[Scored]:
        self._count("collect")
        taken, self._queue = self._queue[:number], self._queue[number:]
        return [
            Scored({}, "boom", 0.1, "here:1")
            if self._fail(genes)
            else Scored({"score": float(sum(genes))}, "", 0.1, "here:1")
            for genes in taken
        ]


def loop_of(
    phases: Sequence[Phase], commit: Callable[[list[Row]], object], size: int = 2, depth: int = 1
) -> SearchLoop:
    return SearchLoop("test/0", SPACE, phases, commit, round_size=size, rounds_in_flight=depth)


def run(loop: SearchLoop, pool: Scores) -> list[Row]:
    rows: list[Row] = []
    while not loop.finished:
        rows += loop.advance(pool)
    return rows


# Order --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_an_ask_comes_after_exactly_the_tells_that_it_may_know(size: int, depth: int) -> None:
    asker = Asker(13)
    pool = Scores()
    rows = run(loop_of([Phase("search", asker)], lambda rows: None, size, depth), pool)
    told = 0
    expected = []
    for ask in range(13):
        # In flight are this ask's round and the depth - 1 before it; everything earlier is told.
        due = max(0, ask // size - depth + 1) * size
        expected += [("tell", index) for index in range(told, due)]
        told = max(told, due)
        expected.append(("ask", ask))
    expected += [("tell", index) for index in range(told, 13)]
    assert asker.log == expected
    assert [row.candidate.ask_index for row in rows] == list(range(13))
    assert pool.most == min(size * depth, 13)


def test_a_round_is_committed_whole_before_it_is_told() -> None:
    log: list[Event] = []
    asker = Asker(5, log=log)

    def commit(rows: list[Row]) -> None:
        log.extend(("commit", row.candidate.ask_index) for row in rows)

    run(loop_of([Phase("search", asker)], commit, size=2, depth=2), Scores())
    events = [event for event in log if event[0] != "ask"]
    assert events == [
        ("commit", 0), ("commit", 1), ("tell", 0), ("tell", 1), ("commit", 2), ("commit", 3), ("tell", 2),
        ("tell", 3), ("commit", 4), ("tell", 4),
    ]  # fmt: skip


def test_a_searcher_that_waits_gets_the_tells_it_waits_for() -> None:
    asker = Asker(10, generation=5)
    segments: list[int] = []
    rows = run(
        loop_of([Phase("search", asker)], lambda rows: segments.append(len(rows)), size=2, depth=4), Scores()
    )
    assert len(rows) == 10
    # The last round of a generation is what is left of it.
    assert segments == [2, 2, 1, 2, 2, 1]
    assert asker.log.index(("ask", 5)) > asker.log.index(("tell", 4))


def test_the_second_phase_begins_when_the_first_is_told() -> None:
    log: list[Event] = []
    first, second = Asker(5, log=log), Asker(4)
    second.log = log
    loop = loop_of([Phase("search", first), Phase("random", second)], lambda rows: None, size=2, depth=3)
    rows = run(loop, Scores())
    assert [row.candidate.phase for row in rows] == ["search"] * 5 + ["random"] * 4
    assert [row.candidate.ask_index for row in rows] == list(range(9))
    assert [event for event in log[:10] if event[0] == "tell"] == [("tell", index) for index in range(5)]
    assert (loop.asks, loop.evaluations) == (9, 9)
    assert not loop.phases


def test_ids_are_unique_though_genes_repeat() -> None:
    same = Asker(6)
    same.tell = lambda evaluations: None  # type: ignore[method-assign]
    again = Asker(6)
    again.tell = lambda evaluations: None  # type: ignore[method-assign]
    rows = run(loop_of([Phase("search", same), Phase("random", again)], lambda rows: None, size=3), Scores())
    assert len({row.candidate.genes for row in rows}) == 6
    assert len({row.candidate.id for row in rows}) == 12


def test_a_searcher_that_neither_asks_nor_finishes_is_an_error() -> None:
    class Stuck(Asker):
        def ask(self, n: int) -> list[Genes]:
            return []

    with pytest.raises(RuntimeError, match="the searcher neither asks nor finishes"):
        run(loop_of([Phase("search", Stuck(3))], lambda rows: None), Scores())


# What is told and recorded ------------------------------------------------------------------------------


def test_failed_candidates_are_recorded_and_told() -> None:
    asker = Asker(9)
    loop = SearchLoop(
        "test/0", SPACE, [Phase("search", asker)], lambda rows: None,
        round_size=3, measured=lambda genes: {"latency_ms": 2.5}, numerics="this one",
    )  # fmt: skip
    rows = run(loop, Scores(fail=lambda genes: genes[0] == 0))
    failed = [row for row in rows if row.candidate.genes[0] == 0]
    assert 0 < len(failed) < 9
    for one, told in zip(rows, asker.told, strict=True):
        genes = one.candidate.genes
        assert told.candidate == one.candidate
        assert one.cost == SPACE.cost(genes)
        assert one.names == SPACE.names(genes)
        assert (one.seconds, one.place, one.numerics) == (0.1, "here:1", "this one")
        costs = SPACE.cost(genes)._asdict()
        if one in failed:
            assert (one.status, one.reason, one.metrics) == ("failed", "boom", {})
            assert (told.status, told.reason, told.metrics) == ("failed", "boom", costs)
        else:
            assert (one.status, one.metrics) == ("ok", {"score": float(sum(genes)), "latency_ms": 2.5})
            assert told.metrics == {**one.metrics, **costs}
        assert Row.model_validate(one.model_dump()) == one  # made without validation


class Partial(Scores):
    """Every second result lacks `score`, every third lacks `other`."""

    def collect(self, number: int) -> list[Scored]:
        taken, self._queue = self._queue[:number], self._queue[number:]
        return [self._result(sum(genes), genes) for genes in taken]

    def _result(self, value: int, genes: Genes) -> Scored:
        metrics = {"score": 1.0, "other": 2.0}
        lost = [name for name, every in (("score", 2), ("other", 3)) if value % every == 0]
        kept = {name: metrics[name] for name in metrics if name not in lost}
        return Scored(kept, f"no {lost}" if lost else "", 0.1, "here:1")


@pytest.mark.parametrize("needed", [("score",), ("other",), ("score", "other"), ()])
def test_a_row_fails_only_without_what_is_needed(needed: tuple[str, ...]) -> None:
    asker = Asker(60)
    loop = SearchLoop(
        "test/0", SPACE, [Phase("search", asker)], lambda rows: None, round_size=5, needed=needed
    )
    rows = run(loop, Partial())
    assert {one.status for one in rows} == {"ok", "failed"}
    for one, told in zip(rows, asker.told, strict=True):
        value = sum(one.candidate.genes)
        kept = {
            name: number for name, number, every in (("score", 1.0, 2), ("other", 2.0, 3)) if value % every
        }
        assert one.metrics == kept, "what could be scored is kept"
        failed = not kept or not kept.keys() >= set(needed)
        assert one.status == told.status == ("failed" if failed else "ok")
        assert bool(one.reason) == (len(kept) < 2)


def test_genes_outside_the_space_are_a_failed_row() -> None:
    class Astray(Asker):
        def ask(self, n: int) -> list[Genes]:
            return [(9, *genes[1:]) for genes in super().ask(n)]

    loop = loop_of([Phase("search", Astray(1))], lambda rows: None)
    (one,) = run(loop, Scores(fail=lambda genes: genes[0] == 9))
    assert (one.status, one.names, one.cost) == ("failed", {}, Complexity())


def test_values_are_higher_for_better_and_worst_for_nothing() -> None:
    one = row(0, metrics={"loss": -2.0, "odd": float("nan")})
    assert value_of(one, "loss") == -2.0
    assert value_of(one, "params", maximise=False) == -1000.0
    assert value_of(one, "odd") == value_of(one, "missing") == float("-inf")
    assert value_of(row(0, status="failed", metrics={"loss": 1.0}), "loss") == float("-inf")
    assert evaluation_of(one).metrics["params"] == 1000


def test_a_metric_of_the_name_of_a_cost_counts() -> None:
    """A table's column `params` is what its owner asked for, in whatever unit."""
    one = row(0, metrics={"score": 1.0, "params": 1.5})
    assert one.cost.params == 1000
    assert value_of(one, "params") == evaluation_of(one).metrics["params"] == 1.5
    assert value_of(one, "macs", maximise=False) == -one.cost.macs


def test_a_score_wins_over_what_is_measured() -> None:
    loop = SearchLoop(
        "test/0", SPACE, [Phase("search", Asker(2))], lambda rows: None,
        round_size=2, measured=lambda genes: {"score": -5.0, "latency_ms": 2.5},
    )  # fmt: skip
    for one in run(loop, Scores()):
        assert one.metrics == {"score": float(sum(one.candidate.genes)), "latency_ms": 2.5}


# Interruption -------------------------------------------------------------------------------------------

PHASES = (7, 5)  # asks of the two phases


def phases() -> list[Phase]:
    return [Phase("search", Asker(PHASES[0], generation=4)), Phase("random", Asker(PHASES[1]))]


def undisturbed(folder: Path) -> str:
    recorder = Recorder(Ledger(folder))
    run(loop_of(phases(), recorder.write, size=2, depth=2), Scores())
    return Ledger(folder).digest()


CUTS = [
    (call, number) for call in ("submit", "collect", "commit", "committed", "tell") for number in range(7)
]


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: f"{cut[0]}-{cut[1]}")
def test_an_interrupted_search_goes_on_as_if_undisturbed(tmp_path: Path, cut: Event) -> None:
    """Whatever raises: the pool, the commit before or after it wrote, the searcher when it is told."""
    expected = undisturbed(tmp_path / "whole")
    ledger = Ledger(tmp_path / "cut")
    recorder = Recorder(ledger)
    commits = 0

    def commit(rows: list[Row]) -> None:
        nonlocal commits
        if cut == ("commit", commits):
            raise KeyboardInterrupt
        recorder.write(rows)
        commits += 1
        if cut == ("committed", commits - 1):
            raise KeyboardInterrupt

    class Deaf(Asker):
        def tell(self, evaluations: Sequence[Evaluation]) -> None:
            if cut == ("tell", commits - 1):
                raise KeyboardInterrupt
            super().tell(evaluations)

    first = [Phase("search", Deaf(PHASES[0], generation=4)), Phase("random", Deaf(PHASES[1]))]
    with pytest.raises(KeyboardInterrupt):
        run(loop_of(first, commit, size=2, depth=2), Scores(cut=cut))
    kept = len(ledger.segments())
    again = Recorder(ledger)
    loop = loop_of(phases(), again.write, size=2, depth=2)
    loop.replay(again.replay())
    run(loop, Scores())
    assert ledger.digest() == expected
    assert kept < len(ledger.segments()) or cut[1] == 6
    assert loop.evaluations == sum(PHASES)


def replayed(rows: Sequence[Row]) -> None:
    loop_of(phases(), lambda rows: None, size=2, depth=2).replay(rows)


@pytest.fixture
def rows() -> list[Row]:
    return run(loop_of(phases(), lambda rows: None, size=2, depth=2), Scores())


def changed(one: Row, **changes: object) -> Row:
    return one.model_copy(update={"candidate": one.candidate.model_copy(update=changes)})


def test_a_replay_goes_over_every_round(rows: list[Row]) -> None:
    for count in (0, 2, 4, 6, 7, 9, 11, 12):
        replayed(rows[:count])


@pytest.mark.parametrize("place", [0, 5, 11])
def test_a_replay_refuses_what_was_not_asked_for(rows: list[Row], place: int) -> None:
    for changes in ({"genes": (2,) * 8}, {"phase": "other"}, {"id": "0" * 16}):
        altered = [*rows[:place], changed(rows[place], **changes), *rows[place + 1 :]]
        with pytest.raises(UserError, match=f"At ask {place} it asks for genes") as caught:
            replayed(altered)
        assert caught.value.field == "ledger"


def test_a_replay_notices_altered_scores_by_what_they_lead_to(rows: list[Row]) -> None:
    altered = [rows[0].model_copy(update={"metrics": {"score": 100.0}}), *rows[1:]]
    with pytest.raises(UserError, match="The run is of another version or was altered"):
        replayed(altered)


@pytest.mark.parametrize("count", [1, 3, 5, 8, 10])
def test_a_replay_refuses_a_part_of_a_round(rows: list[Row], count: int) -> None:
    with pytest.raises(UserError, match="A round was committed in part"):
        replayed(rows[:count])


def test_a_replay_refuses_rows_beyond_the_end(rows: list[Row]) -> None:
    more = Candidate.of("test/0", SPACE.digest, (0,) * 8, 12, "random")
    with pytest.raises(UserError, match="it asks for nothing more, where genes"):
        replayed([*rows, rows[0].model_copy(update={"candidate": more})])


# Extended searches ----------------------------------------------------------------------------------------


class Extension:
    """A search of 7 and a baseline of as many, to be extended; in rounds that do not fit the budgets."""

    def __init__(self, size: int, depth: int, generation: int | None = None, baseline: bool = True) -> None:
        self.size, self.depth, self.generation, self.baseline = size, depth, generation, baseline

    def phases(self, *budgets: int) -> list[Phase]:
        """Of the search with the last budget, that was extended from the ones before."""
        searchers = {"search": Asker(budgets[-1], self.generation or budgets[-1])}
        if self.baseline:
            searchers["random"] = Asker(budgets[-1])
        ends: list[int | None] = [*budgets[:-1], None]
        return [Phase(name, one, end) for end in ends for name, one in searchers.items()]

    def search(self, ledger: Ledger, *budgets: int) -> list[Row]:
        """To the end, from where the ledger stands; all rows."""
        recorder = Recorder(ledger)
        loop = loop_of(self.phases(*budgets), recorder.write, self.size, self.depth)
        loop.replay(recorder.replay())
        pool = Scores()
        run(loop, pool)
        assert pool.most <= self.size * self.depth
        return list(ledger.rows())


def told_of(rows: Sequence[Row], phase: str) -> list[tuple[Genes, dict[str, float]]]:
    return [(row.candidate.genes, row.metrics) for row in rows if row.candidate.phase == phase]


@pytest.mark.parametrize("generation", [None, 4])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_an_extended_search_is_the_one_with_the_larger_budget(
    tmp_path: Path, size: int, depth: int, generation: int | None
) -> None:
    one = Extension(size, depth, generation, baseline=False)
    ledger = Ledger(tmp_path / "extended")
    for budgets in ((7,), (7, 13), (7, 13, 18)):
        kept = [path.read_bytes() for path in ledger.segments()]
        one.search(ledger, *budgets)
        assert [path.read_bytes() for path in ledger.segments()[: len(kept)]] == kept
    whole = Ledger(tmp_path / "whole")
    assert len(one.search(whole, 18)) == 18
    assert ledger.digest() == whole.digest()


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("depth", [1, 4])
def test_phases_go_on_after_the_baseline(tmp_path: Path, size: int, depth: int) -> None:
    one = Extension(size, depth)
    ledger = Ledger(tmp_path / "extended")
    for budgets in ((7,), (7, 13), (7, 13, 18)):
        rows = one.search(ledger, *budgets)
    whole = one.search(Ledger(tmp_path / "whole"), 18)
    names = [row.candidate.phase for row in rows]
    assert names == [name for count in (7, 6, 5) for name in ("search", "random") for _ in range(count)]
    assert [row.candidate.ask_index for row in rows] == list(range(36))
    for phase in ("search", "random"):
        assert told_of(rows, phase) == told_of(whole, phase)
    assert one.search(Ledger(tmp_path / "again"), 7, 13, 18) == [
        row.model_copy(update={"time": other.time})
        for row, other in zip(rows, Ledger(tmp_path / "again").rows(), strict=True)
    ]


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("depth", [1, 3])
def test_an_extended_search_goes_on_from_any_segment(tmp_path: Path, size: int, depth: int) -> None:
    one = Extension(size, depth)
    whole = Ledger(tmp_path / "whole")
    one.search(whole, 7, 13)
    segments = [read_segment(path) for path in whole.segments()]
    for kept in range(len(segments)):
        cut = Ledger(tmp_path / f"cut-{kept}")
        for number, rows in enumerate(segments[:kept]):
            cut.append_at(number, rows)
        one.search(cut, 7, 13)
        assert cut.digest() == whole.digest()
        assert len(cut.segments()) == len(segments)


def test_a_searcher_whose_asks_depend_on_its_budget_is_noticed(tmp_path: Path) -> None:
    class Scheduled(Asker):
        def ask(self, n: int) -> list[Genes]:
            return [digits(1000 * self.budget + sum(genes)) for genes in super().ask(n)]

    recorder = Recorder(Ledger(tmp_path))
    run(loop_of([Phase("search", Scheduled(7))], recorder.write), Scores())
    longer = Scheduled(13)
    loop = loop_of([Phase("search", longer, 7), Phase("search", longer)], recorder.write)
    with pytest.raises(UserError, match="At ask 0 it asks for genes"):
        loop.replay(recorder.replay())
