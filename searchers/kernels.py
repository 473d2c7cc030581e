"""How alike two candidates of a space are: the covariance of a Gaussian process over genes.

    k(a, b) = 1/2 exp(-|f(a) - f(b)|^2 / (2 LENGTH^2)) + 1/2 DECAY^h(a, b) + MACS m(a) m(b)

f: counts of the space's own features (networks/spaces/features.py); where it has none, the second term
counts whole. h: in how many genes they differ, in sixths of all genes: so that the constants, which are
search_quality.md's for the six genes of NAS-Bench-201, suit spaces with other numbers of genes. m: log MACs,
standardised over the space.
"""

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from networks.counters import counter_random
from networks.spaces.choices import ChoiceSpace
from networks.spaces.features import features_of
from networks.spaces.space import Genes, SearchSpace

LENGTH, DECAY, MACS = 1.5, 0.6, 0.3
# Spaces up to this size are listed whole. Where costs do not add up, one takes milliseconds.
LISTED, LISTED_SLOWLY = 50_000, 2_000
# Draws that standardise the MACs of a larger space.
REFERENCE = 1_000


class Encoded(NamedTuple):
    """n candidates. genes: int16 (positions, n). counts: float32 (n, features), and the sums of their
    squares (n,). macs: float64 (n,), standardised logarithms."""

    genes: np.ndarray
    counts: np.ndarray
    squares: np.ndarray
    macs: np.ndarray


class Listed(NamedTuple):
    """All candidates of a small space, where each of them stands, and their encoding."""

    candidates: tuple[Genes, ...]
    place: dict[Genes, int]
    encoded: Encoded


class Kernel:
    """The covariance over one space. `listed`: None where the space is large."""

    def __init__(self, space: SearchSpace) -> None:
        self._space, self._features = space, features_of(space)
        self._words: dict[Hashable, int] = {}
        self._macs: dict[Genes, int] = {}
        small = space.size <= (LISTED if isinstance(space, ChoiceSpace) else LISTED_SLOWLY)
        if small:
            reference = tuple(space.enumerate())
        else:
            reference = tuple(space.sample(counter_random(0, "kernel", i)) for i in range(REFERENCE))
        log_macs = np.log1p(self.macs(reference))
        self._mean, self._deviation = float(log_macs.mean()), float(log_macs.std()) or 1.0
        self.listed: Listed | None = None
        if small:
            place = {genes: i for i, genes in enumerate(reference)}
            self.listed = Listed(reference, place, self.encode(reference))

    def macs(self, many: Sequence[Genes]) -> np.ndarray:
        """Multiply-adds of candidates: float64 (n,)."""
        space = self._space
        if not isinstance(space, ChoiceSpace):
            self._macs |= {genes: space.cost(genes).macs for genes in many if genes not in self._macs}
            return np.array([self._macs[genes] for genes in many], np.float64)
        found = np.full(len(many), space.base_cost.macs, np.float64)
        for genes, costs in zip(np.array(many, np.int16).T, space.cost_table, strict=True):
            found += np.array([cost.macs for cost in costs], np.float64)[genes]
        return found

    def encode(self, many: Sequence[Genes]) -> Encoded:
        if self.listed is not None:
            at = [self.listed.place[genes] for genes in many]
            genes, counts, squares, macs = self.listed.encoded
            return Encoded(genes[:, at], counts[at], squares[at], macs[at])
        counts = self._counts(many)
        log_macs = np.log1p(self.macs(many))
        return Encoded(
            np.array(many, np.int16).reshape(len(many), -1).T.copy(),
            counts,
            np.square(counts).sum(axis=1),
            (log_macs - self._mean) / self._deviation,
        )

    def _counts(self, many: Sequence[Genes]) -> np.ndarray:
        if self._features is None:
            return np.zeros((len(many), 0), np.float32)
        found = [self._features(genes) for genes in many]
        for counts in found:
            for word in counts:
                self._words.setdefault(word, len(self._words))
        matrix = np.zeros((len(many), len(self._words)), np.float32)
        for row, counts in enumerate(found):
            for word, count in counts.items():
                matrix[row, self._words[word]] = count
        return matrix

    def between(self, a: Encoded, b: Encoded) -> np.ndarray:
        """The covariances of all pairs: float64 (len(a), len(b))."""
        unlike = np.zeros((a.genes.shape[1], b.genes.shape[1]), np.uint8)
        for mine, theirs in zip(a.genes, b.genes, strict=True):
            unlike += mine[:, None] != theirs
        powers = DECAY ** (6 / len(a.genes) * np.arange(len(a.genes) + 1))
        found = powers[unlike]
        if self._features is not None:
            squares = a.squares[:, None] + b.squares - 2 * _products(a.counts, b.counts)
            found = 0.5 * found + 0.5 * np.exp(squares / np.float32(-2 * LENGTH**2))
        return found + MACS * a.macs[:, None] * b.macs

    def variances(self, a: Encoded) -> np.ndarray:
        """The diagonal of `between(a, a)`."""
        return 1 + MACS * a.macs**2


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Words that only one of them has, which was encoded later, count as 0 in the other."""
    width = min(a.shape[1], b.shape[1])
    return a[:, :width] @ b[:, :width].T


@lru_cache(maxsize=4)
def kernel_of(space: SearchSpace) -> Kernel:
    """The kernel of a space. Encoding a space takes part of a second, and many seeds may search it."""
    return Kernel(space)
