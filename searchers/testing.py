"""The conformance suite of searchers: for weft's own tests and for anyone who writes a searcher."""

import json
from collections.abc import Callable

from networks.errors import UserError
from networks.spaces.space import Genes, SearchSpace
from searchers.searcher import Candidate, Evaluation, Searcher


def check_searcher(
    make: Callable[[], Searcher], space: SearchSpace, score: Callable[[Genes], float], *, limit: int = 1000
) -> None:
    """Raise AssertionError when the searcher breaks the protocol.

    `make` builds a fresh searcher over `space` with a fixed seed; `score` rates genes. Checked: only legal
    genes are asked for; never more than n; the same history gives the same asks; a saved and loaded
    searcher goes on as the original does; failed and NaN evaluations are survived; it finishes or reaches
    `limit` asks.
    """
    history = _drive(make(), space, score, limit=limit, batch=3)
    assert history, "the searcher asked for nothing"
    assert history == _drive(make(), space, score, limit=limit, batch=3), "two runs differ"
    for cut in sorted({0, len(history) // 3, 2 * len(history) // 3}):
        _check_resume(make, space, score, cut, len(history))
    _drive(make(), space, lambda genes: float("nan"), limit=min(limit, 30), batch=4)
    _drive(make(), space, score, limit=min(limit, 30), batch=2, fail=True)


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
    return Evaluation(candidate=candidate, status="ok", metrics={"score": score(genes)})


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
