"""How well a score ranks candidates, where the truth is known: Kendall's tau-b and how sure it is."""

import numpy as np
import scipy
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict

from networks.counters import counter_generator
from networks.errors import UserError

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percentiles


class Ranking(BaseModel):
    """A score against the truth, over `candidates` pairs of values. JSON-ready.

    tau: Kendall's tau-b, which takes ties into account. low, high: its 95 % percentile bootstrap interval,
    over the `resamples` in which it is defined. spearman: rank correlation. tied_scores, tied_truth: pairs
    of candidates with equal values. Where tau is not defined, it and all that follows from it are None, and
    `reason` says why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidates: int
    tau: float | None = None
    low: float | None = None
    high: float | None = None
    spearman: float | None = None
    tied_scores: int
    tied_truth: int
    resamples: int = 0
    reason: str = ""


def kendall_tau_b(scores: ArrayLike, truth: ArrayLike, seed: int = 0, resamples: int = RESAMPLES) -> Ranking:
    """The ranking by `scores` against the one by `truth`; one finite value for each candidate in both.

    tau-b = (C - D) / sqrt((P - T_scores) (P - T_truth)) over the P pairs: C concordant, D discordant, T tied
    (Kendall 1945). Only order counts: `WORST` is a value as any other. Candidates are resampled with
    replacement, drawn from (seed, "bootstrap"). Raises `UserError` for values that are not finite, for
    lengths that differ and for less than no resamples.
    """
    x, y = _ranks("scores", scores), _ranks("truth", truth)
    if len(x) != len(y):
        raise UserError("truth", f"{len(y)} values", f"as many as scores ({len(x)})")
    if resamples < 0:
        raise UserError("resamples", resamples, "0 or more")
    ties = {"tied_scores": _tied_pairs(x), "tied_truth": _tied_pairs(y)}
    constant = [name for name, ranks in (("scores", x), ("truth", y)) if len(ranks) == 0 or ranks.max() == 0]
    if constant:
        reason = f"fewer than two distinct values in {' and in '.join(constant)}"
        return Ranking(candidates=len(x), reason=reason, **ties)
    taus = _bootstrap(x, y, seed, resamples)
    low, high = np.percentile(taus, INTERVAL).tolist() if len(taus) else (None, None)
    return Ranking(
        candidates=len(x),
        tau=_tau(x, y),
        low=low,
        high=high,
        spearman=float(scipy.stats.spearmanr(x, y).statistic),
        resamples=len(taus),
        **ties,
    )


def _ranks(name: str, values: ArrayLike) -> NDArray[np.int64]:
    """Dense ranks, 0 for the smallest: only order counts, and whole numbers are sorted faster."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise UserError(name, f"shape {array.shape}", "one value for each candidate")
    wrong = np.flatnonzero(~np.isfinite(array))
    if len(wrong):
        raise UserError(f"{name}.{wrong[0]}", float(array[wrong[0]]), "finite numbers")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


def _tied_pairs(ranks: NDArray[np.int64]) -> int:
    counts = np.bincount(ranks)
    return int((counts * (counts - 1) // 2).sum())


def _tau(x: NDArray[np.int64], y: NDArray[np.int64]) -> float:
    """NaN where one of the two has a single value. scipy counts in O(n log n)."""
    # The method is that of the p-value, which nobody reads; the asymptotic one is fast, and wants three.
    method = "asymptotic" if len(x) > 2 else "exact"
    return float(scipy.stats.kendalltau(x, y, variant="b", method=method).statistic)


def _bootstrap(x: NDArray[np.int64], y: NDArray[np.int64], seed: int, resamples: int) -> NDArray[np.float64]:
    draws = counter_generator(seed, "bootstrap")
    taus = []
    for _ in range(resamples):
        drawn = torch.randint(len(x), (len(x),), generator=draws).numpy()
        taus.append(_tau(x[drawn], y[drawn]))
    found = np.array(taus)
    return found[np.isfinite(found)]
