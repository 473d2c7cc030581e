"""Exact Gaussian process regression that grows by one point at a time."""

from collections.abc import Sequence

import numpy as np
import scipy

from networks.spaces.space import Genes
from searchers.kernels import Encoded, Kernel

# Variance of an observation around the function, on the scale of normal scores.
NOISE = 0.01


class GaussianProcess:
    """A zero-mean process over genes: the points it is conditioned on, and their Cholesky factor."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.points: list[Genes] = []
        self._factor = np.zeros((64, 64))

    @property
    def factor(self) -> np.ndarray:
        """L of K + NOISE I = L L^T; float64 (points, points)."""
        return self._factor[: len(self.points), : len(self.points)]

    def condition(self, points: Sequence[Genes]) -> int:
        """Condition on these points. Rows that the last ones share with them from the start are kept; how
        many are is returned. A row costs points^2 operations."""
        kept = 0
        while kept < min(len(points), len(self.points)) and points[kept] == self.points[kept]:
            kept += 1
        del self.points[kept:]
        if len(points) > len(self._factor):
            grown = np.zeros((2 * len(points), 2 * len(points)))
            grown[:kept, :kept] = self._factor[:kept, :kept]
            self._factor = grown
        for genes in points[kept:]:
            self._add(genes)
        return kept

    def _add(self, genes: Genes) -> None:
        n, one = len(self.points), self.kernel.encode([genes])
        square = float(self.kernel.variances(one)[0]) + NOISE
        if n:
            covariances = self.kernel.between(self.kernel.encode(self.points), one)[:, 0]
            row = scipy.linalg.solve_triangular(self.factor, covariances, lower=True, check_finite=False)
            self._factor[n, :n] = row
            square -= float(row @ row)
        self._factor[n, n] = np.sqrt(max(square, 0.1 * NOISE))
        self.points.append(genes)

    def weights(self, targets: np.ndarray) -> np.ndarray:
        """L^-1 y of targets (m,) of the first m points. Later points have none: they are taken to come out
        exactly at the posterior mean, which leaves the mean as it is and takes variance away."""
        m = len(targets)
        return scipy.linalg.solve_triangular(self.factor[:m, :m], targets, lower=True, check_finite=False)


class Projections:
    """V = L^-1 k(points, candidates), from which mean and variance at fixed candidates are one product."""

    def __init__(self, process: GaussianProcess, candidates: Encoded) -> None:
        self._process, self._candidates = process, candidates
        self._prior = process.kernel.variances(candidates)
        self._variance = self._prior.copy()
        self._count = 0
        # float32 halves the memory that each ask reads; the error is far below NOISE.
        self._rows = np.empty((64, len(self._prior)), np.float32)

    def update(self, kept: int) -> None:
        """Follow the process, which kept that many of its points."""
        process, points = self._process, self._process.points
        if kept < self._count:
            # Again in the same order, so that a resumed search has the same bits.
            self._variance, self._count = self._prior.copy(), kept
            for row in self._rows[:kept]:
                self._variance -= np.square(row, dtype=np.float64)
        if len(points) > len(self._rows):
            grown = np.empty((2 * len(points), len(self._prior)), np.float32)
            grown[: self._count] = self._rows[: self._count]
            self._rows = grown
        for place in range(self._count, len(points)):
            covariances = process.kernel.between(process.kernel.encode([points[place]]), self._candidates)[0]
            row = process.factor[place, : place + 1]
            if place:
                covariances -= row[:-1].astype(np.float32) @ self._rows[:place]
            self._rows[place] = covariances / row[-1]
            self._variance -= np.square(self._rows[place], dtype=np.float64)
        self._count = len(points)

    def predict(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance at the candidates, given the targets of the first points."""
        weights = self._process.weights(targets).astype(np.float32)
        return weights @ self._rows[: len(weights)], self._variance


def predict_at(
    process: GaussianProcess, candidates: Encoded, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance at candidates that are asked about only once."""
    kernel = process.kernel
    covariances = kernel.between(kernel.encode(process.points), candidates)
    rows = scipy.linalg.solve_triangular(process.factor, covariances, lower=True, check_finite=False)
    mean = process.weights(targets) @ rows[: len(targets)]
    return mean, kernel.variances(candidates) - np.square(rows).sum(axis=0)
