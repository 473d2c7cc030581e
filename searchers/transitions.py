"""Which operations an operation may be rewritten to, so that a network gets no costlier (NAT, 1910.14488;
NAT++, 2102.10301; NAT spec section 2).

Every operation computes (O), passes on (S) or is not there (N). Under ``nat`` what computes stays, or becomes
S or N; S may become N and N may become S. Under ``nat++`` it may also become something cheaper of its own
kind: a convolution a separable one, that a dilated one, that a pooling, and each a smaller kernel. The rules
are about operations at stride 1; where an edge halves the size a skip connection has weights, and
`never_costlier` looks at the costs themselves (spec 2.3).
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from networks.cells import WORDS, Cell
from networks.errors import UserError, nearest
from networks.operations import OPERATIONS, Category, find_operation

Rule = Literal["nat", "nat++"]
KEEP, SKIP, NONE = "keep", "S", "N"
# Beside itself, S and N (spec 2.2). Poolings of one size become each other: they cost the same.
CHEAPER = {
    "c5": ("c3", "c1", "sep5", "sep3", "dil5", "dil3", "max5", "max3", "avg5", "avg3"),
    "c3": ("c1", "sep3", "dil3", "max3", "avg3"),
    "c1": (),
    "sep5": ("sep3", "dil5", "dil3", "max5", "max3", "avg5", "avg3"),
    "sep3": ("dil3", "max3", "avg3"),
    "dil5": ("dil3", "max5", "max3", "avg5", "avg3"),
    "dil3": ("max3", "avg3"),
    "avg5": ("avg3", "max5", "max3"),
    "avg3": ("max3",),
    "max5": ("max3", "avg5", "avg3"),
    "max3": ("avg3",),
}


class Move(NamedTuple):
    """What a link from `source` to `target` was and became."""

    source: int
    target: int
    before: str
    after: str


def category_of(word: str) -> Category:
    """O, S or N. A word of cells, or the name of a registered operation that has none. Raises `UserError` for
    what is neither."""
    if word not in WORDS and word not in OPERATIONS:
        raise UserError("operation", word, ", ".join(WORDS), nearest(word, [*WORDS, *OPERATIONS]))
    return find_operation(WORDS[word][1] if word in WORDS else word).category


def reachable(word: str, rule: Rule) -> tuple[str, ...]:
    """What an operation may become, itself first. One that ``nat++`` does not know stays. Raises `UserError`
    for what is no operation of a cell, and for another rule."""
    if rule not in get_args(Rule):
        raise UserError("rule", rule, " or ".join(get_args(Rule)))
    category = category_of(word)
    if category != "O":
        return (SKIP, NONE) if category == "S" else (NONE, SKIP)
    if rule == "nat":
        return (word, SKIP, NONE)
    return (word, *CHEAPER[word], SKIP, NONE) if word in CHEAPER else (word,)


def mask(words: Sequence[str], vocabulary: Sequence[str], rule: Rule) -> np.ndarray:
    """Which of the vocabulary each of these operations may become: bool (words, vocabulary). Raises
    `UserError` where the vocabulary lacks one of them."""
    missing = sorted(set(words) - set(vocabulary))
    if missing:
        raise UserError("vocabulary", list(vocabulary), f"one with {', '.join(missing)} too")
    allowed = {word: set(reachable(word, rule)) for word in set(words)}
    return np.array([[other in allowed[word] for other in vocabulary] for word in words], bool)


def never_costlier(allowed: np.ndarray, costs: np.ndarray, now: Sequence[int]) -> np.ndarray:
    """Of what is allowed, that which costs no more at its place than what stands there now.

    costs: (links, vocabulary), what each operation costs at each link; now: (links,), positions in the
    vocabulary. What stands there may always stay.
    """
    places = np.arange(len(now))
    return allowed & (costs <= costs[places, list(now)][:, None])


class Actions:
    """What a policy may do to a link: with ``nat`` leave its operation, or make it S or N; with ``nat++`` put
    any operation of the vocabulary there.

    NAT's release has three actions too, without a mask: there S may be left or made S, which is the same, so
    that its probability is counted by halves (spec 2.1).
    """

    def __init__(self, rule: Rule, vocabulary: Sequence[str]) -> None:
        """Raises `UserError` for another rule, and where the vocabulary lacks S or N."""
        for word in (SKIP, NONE):
            if word not in vocabulary:
                raise UserError("vocabulary", list(vocabulary), f"one with {word} too")
        self.rule, self.vocabulary = rule, tuple(vocabulary)
        self.names = (KEEP, SKIP, NONE) if rule == "nat" else self.vocabulary
        self._becomes = {
            word: [self._after(word, name, reachable(word, rule)) for name in self.names]
            for word in self.vocabulary
        }

    def _after(self, word: str, name: str, allowed: Sequence[str]) -> str | None:
        if name == KEEP:
            return word
        return name if name in allowed and (self.rule != "nat" or name != word) else None

    def becomes(self, word: str) -> list[str | None]:
        """What each action makes of it; None: it is not allowed."""
        return self._becomes[word]

    def allowed(self, words: Sequence[str]) -> np.ndarray:
        """bool (words, actions)."""
        return np.array([[after is not None for after in self._becomes[word]] for word in words], bool)

    def after(self, words: Sequence[str], actions: Sequence[int]) -> tuple[str, ...]:
        """What these actions make of the words. Raises ValueError where one is not allowed."""
        found = tuple(self._becomes[word][action] for word, action in zip(words, actions, strict=True))
        if None in found:
            raise ValueError(f"{words} cannot become {found} under {self.rule}")
        return tuple(word for word in found if word is not None)


def count(words: Iterable[str], rule: Rule) -> int:
    """How many ways there are to rewrite all of these, staying included."""
    return math.prod(len(reachable(word, rule)) for word in words)


def moves(before: Cell, after: Cell) -> list[Move]:
    """What changed between two cells of the same wiring. Raises `UserError` for others."""
    wiring = [tuple(link.source for link in links) for links in before.nodes]
    if wiring != [tuple(link.source for link in links) for links in after.nodes]:
        raise UserError("cell", str(after), f"the wiring of {before}")
    if before.joined != after.joined:
        raise UserError("cell: out", list(after.joined), f"{list(before.joined)}, as before")
    return [
        Move(old.source, target, old.operation, new.operation)
        for target, (olds, news) in enumerate(zip(before.nodes, after.nodes, strict=True), start=2)
        for old, new in zip(olds, news, strict=True)
        if old.operation != new.operation
    ]


def illegal(before: Cell, after: Cell, rule: Rule) -> list[Move]:
    """Those of the moves that the rule does not have."""
    return [move for move in moves(before, after) if move.after not in reachable(move.before, rule)]
