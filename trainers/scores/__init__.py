"""Scores: functions that rank candidates, from trivial baselines to trained accuracy."""

from trainers.scores.registry import SCORES, check_supported, find_score
from trainers.scores.score import WORST, Bench, Score

__all__ = ["SCORES", "WORST", "Bench", "Score", "check_supported", "find_score"]
