"""What scores keep of a bench, so that they need not compute it twice."""

from collections.abc import Callable, Hashable
from typing import TypeVar

from trainers.scores.score import Bench

T = TypeVar("T")
MEMORY = "_memory_of_scores"


def remembered(bench: Bench, slot: str, of: Hashable, make: Callable[[], T]) -> T:
    """make(), or what the last call with this `slot` gave, where it was `of` the same.

    It lies in the bench itself, as a cached property's value does, and goes with it. A bench is of one state
    of the weights: who trains on builds a new one, or old values are given.
    """
    memory = vars(bench).setdefault(MEMORY, {})
    if slot not in memory or memory[slot][0] != of:
        memory[slot] = (of, make())
    return memory[slot][1]
