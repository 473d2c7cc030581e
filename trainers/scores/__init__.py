"""Scores: functions that rank candidates, from trivial baselines to trained accuracy."""

from networks.liveness import WORST
from trainers.scores.registry import SCORES, check_supported, find_score
from trainers.scores.score import Bench, Score

__all__ = ["SCORES", "WORST", "Bench", "Score", "check_supported", "find_score"]
