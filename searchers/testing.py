"""The conformance suite of searchers: for weft's own tests and for anyone who writes a searcher."""

import json
from collections.abc import Callable

from networks.counters import counter_random
from networks.errors import UserError
from networks.spaces.space import Genes, SearchSpace
from searchers.searcher import Candidate, Evaluation, Searcher


def check_searcher(
    make: Callable[[], Searcher], space: SearchSpace, score: Callable[[Genes], float], *, limit: int = 1000
) -> None:
    """Raise AssertionError when the searcher breaks the protocol.

    `make` builds a fresh searcher over `space` with a fixed seed; `score` rates genes. Evaluations have
    the metrics `score` and `sum`, the sum of the genes. Checked: only legal genes are asked for; never
    more than n; the same history gives the same asks; a saved and loaded searcher goes on as the original
    does, also with candidates in flight; failed and NaN evaluations and a warm start are survived; it
    finishes or reaches `limit` asks.
    """
    history = _drive(make(), space, score, limit=limit, batch=3)
    assert history, "the searcher asked for nothing"
    assert history == _drive(make(), space, score, limit=limit, batch=3), "two runs differ"
    for cut in sorted({0, len(history) // 3, 2 * len(history) // 3}):
        _check_resume(make, space, score, cut, len(history))
    _drive(make(), space, lambda genes: float("nan"), limit=min(limit, 30), batch=4)
    _drive(make(), space, score, limit=min(limit, 30), batch=2, fail=True)
    for width in (2, 7):
        _check_in_flight(make, space, score, width, limit)
    warm = make()
    warm.tell(_known(space, score))
    _drive(warm, space, score, limit=min(limit, 60), batch=3, start=len(_known(space, score)))


def check_visits(
    make: Callable[[], Searcher],
    space: SearchSpace,
    score: Callable[[Genes], float],
    feasible: Callable[[Genes], bool] = lambda genes: True,
    *,
    limit: int = 1000,
) -> None:
    """Raise AssertionError when the searcher, of the kind that `check_searcher` accepts, asks for the same
    genes twice, for genes of a warm start, or for genes that are not `feasible`.

    With 1, 5 and 50 candidates in flight, with and without a warm start. `make` and `score` as there.
    """
    for width in (1, 5, 50):
        for known in ([], _known(space, score)):
            searcher = make()
            searcher.tell(known)
            asked = _fly(searcher, space, score, width=width, limit=limit, start=len(known))
            assert asked, "the searcher asked for nothing"
            seen = {one.candidate.genes for one in known}
            for genes in asked:
                assert genes not in seen, f"asked for {genes}, which it knows already"
                assert feasible(genes), f"asked for {genes}, which break a constraint"
                seen.add(genes)


def _known(space: SearchSpace, score: Callable[[Genes], float]) -> list[Evaluation]:
    """Some of a space, as a warm start tells them."""
    rng = counter_random(0, "conformance", "warm start")
    genes = dict.fromkeys(space.sample(rng) for _ in range(5))
    return [_evaluation(one, ask, score, fail=False) for ask, one in enumerate(genes)]


def _fly(
    searcher: Searcher,
    space: SearchSpace,
    score: Callable[[Genes], float],
    *,
    width: int,
    limit: int,
    start: int = 0,
    flying: list[Genes] | None = None,
) -> list[Genes]:
    """Drive with up to `width` candidates in flight, told one by one; `flying` holds those that are, before
    and afterwards."""
    asked: list[Genes] = []
    flying = [] if flying is None else flying
    told = start
    while not searcher.finished and len(asked) < limit:
        genes = searcher.ask(width - len(flying))
        assert len(genes) <= width - len(flying), f"asked for {width - len(flying)}, got {len(genes)}"
        assert genes or flying or searcher.finished, "nothing asked, nothing open, not finished: a deadlock"
        for one in genes:
            _check_legal(space, one)
        asked += genes
        flying += genes
        if flying:
            searcher.tell([_evaluation(flying.pop(0), told, score, fail=False)])
            told += 1
    return asked


def _check_in_flight(
    make: Callable[[], Searcher],
    space: SearchSpace,
    score: Callable[[Genes], float],
    width: int,
    limit: int,
) -> None:
    whole = _fly(make(), space, score, width=width, limit=limit)
    for cut in sorted({1, len(whole) // 2}):
        original, flying = make(), list[Genes]()
        first = _fly(original, space, score, width=width, limit=cut, flying=flying)
        resumed = make()
        resumed.load_state_dict(json.loads(json.dumps(original.state_dict(), allow_nan=False)))
        told = len(first) - len(flying)
        rest = _fly(
            resumed, space, score, width=width, limit=len(whole) - len(first), start=told, flying=flying
        )
        assert first + rest == whole, f"with {width} in flight a loaded searcher goes on differently"


def _drive(
    searcher: Searcher,
    space: SearchSpace,
    score: Callable[[Genes], float],
    *,
    limit: int,
    batch: int,
    fail: bool = False,
    start: int = 0,
) -> list[Genes]:
    asked: list[Genes] = []
    while not searcher.finished and len(asked) < limit:
        genes = searcher.ask(batch)
        assert len(genes) <= batch, f"asked for {batch}, got {len(genes)}"
        assert genes or searcher.finished, "nothing asked, nothing open, and not finished: a deadlock"
        for one in genes:
            _check_legal(space, one)
        searcher.tell([_evaluation(one, start + len(asked) + i, score, fail) for i, one in enumerate(genes)])
        asked += genes
    return asked


def _check_legal(space: SearchSpace, genes: Genes) -> None:
    try:
        space.check(genes)
    except UserError as error:
        raise AssertionError(f"asked for genes that the space refuses: {error}") from error


def _evaluation(genes: Genes, ask: int, score: Callable[[Genes], float], fail: bool) -> Evaluation:
    candidate = Candidate.of("conformance", "space", genes, ask)
    if fail and ask % 2:
        return Evaluation(candidate=candidate, status="failed", reason="conformance suite")
    metrics = {"score": score(genes), "sum": float(sum(genes))}
    return Evaluation(candidate=candidate, status="ok", metrics=metrics)


def _check_resume(
    make: Callable[[], Searcher], space: SearchSpace, score: Callable[[Genes], float], cut: int, total: int
) -> None:
    original = make()
    first = _drive(original, space, score, limit=cut, batch=1)
    state = json.loads(json.dumps(original.state_dict()))
    resumed = make()
    resumed.load_state_dict(state)
    rest = [_drive(one, space, score, limit=total, batch=1, start=len(first)) for one in (original, resumed)]
    assert rest[0] == rest[1], f"after {len(first)} asks a loaded searcher goes on differently"
