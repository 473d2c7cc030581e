"""Synchronous successive halving: which candidates go on after a rung (Jamieson and Talwalkar 2016).

Pure rules over the scores of a whole rung, so that what stops depends on scores alone, never on who
finished first.
"""

import math
from collections.abc import Mapping

from networks.errors import UserError


def rungs(epochs: int, grace: int, eta: int) -> list[int]:
    """Epochs at which candidates are compared: grace, grace*eta, … below `epochs`, then `epochs` itself."""
    if grace < 1:
        raise UserError("grace", grace, "1 or more epochs")
    if eta < 2:
        raise UserError("eta", eta, "2 or more")
    marks = []
    mark = grace
    while mark < epochs:
        marks.append(mark)
        mark *= eta
    return [*marks, epochs]


def survivors(scores: Mapping[int, float | None], eta: int) -> list[int]:
    """The best 1/eta of a rung (rounded up, at least one), as ascending ask indices.

    `scores` maps ask index to score, higher is better. None and NaN (a failed candidate) never survive.
    Ties go to the earlier ask.
    """
    usable = {ask: score for ask, score in scores.items() if score is not None and not math.isnan(score)}
    keep = math.ceil(len(scores) / eta)
    ranked = sorted(usable, key=lambda ask: (-usable[ask], ask))
    return sorted(ranked[:keep])


def planned_epochs(candidates: int, marks: list[int], eta: int) -> int:
    """Epochs that all candidates together train when none fails; `marks` as `rungs` gives them."""
    total, before = 0, 0
    for mark in marks:
        total += candidates * (mark - before)
        candidates, before = math.ceil(candidates / eta), mark
    return total
