"""Which candidates go out together to be scored, and whose results come next. Knows no Ray."""

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from cluster.messages import Scored
from networks.spaces.space import Genes
from searchers.searcher import Part

CALL_S = 0.5  # what one call should take: 0.4 ms of its own do not count then, and its loss costs little
EARLIER = 0.7  # weight of what earlier calls took, in the mean


class Chunk(NamedTuple):
    """Candidates that travel in one call, by their numbers."""

    numbers: tuple[int, ...]
    candidates: tuple[Genes, ...]
    part: Part | None = None


class Dispatch:
    """The queue of a pool: candidates go out in chunks, come back in any order, and leave in order of
    submission.

    A process may die of a candidate. What was being scored when one died is tried again one by one; a
    candidate that more than `retries` processes died of, when it was alone, has failed.
    """

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._waiting: deque[int] = deque()
        self._genes: dict[int, tuple[Genes, Part | None]] = {}  # of all that have no result yet
        self._results: dict[int, Scored] = {}
        self._submitted = self._taken = 0
        self._deaths: dict[int, int] = {}  # of those that go alone
        self._seconds: float | None = None  # that a candidate takes

    @property
    def queued(self) -> int:
        """Submitted and not taken yet."""
        return self._submitted - self._taken

    @property
    def outstanding(self) -> bool:
        """Some have no result yet."""
        return bool(self._genes)

    @property
    def candidate_seconds(self) -> float:
        """What a candidate takes, as far as it was measured."""
        return self._seconds or 0.0

    def submit(self, candidates: Sequence[Genes], part: Part | None = None) -> None:
        for genes in candidates:
            self._genes[self._submitted] = genes, part
            self._waiting.append(self._submitted)
            self._submitted += 1

    def next_chunk(self, replicas: int) -> Chunk | None:
        """What to send to one of so many replicas now; None when nothing waits."""
        if not self._waiting:
            return None
        numbers, alone, length = [self._waiting.popleft()], self._deaths, self._length(replicas)
        _, part = self._genes[numbers[0]]
        while self._waiting and len(numbers) < length:
            if numbers[0] in alone or self._waiting[0] in alone or self._genes[self._waiting[0]][1] != part:
                break
            numbers.append(self._waiting.popleft())
        return Chunk(tuple(numbers), tuple(self._genes[number][0] for number in numbers), part)

    def _length(self, replicas: int) -> int:
        if self._seconds is None:
            return 1
        fair = math.ceil((len(self._waiting) + 1) / (2 * replicas))
        return max(1, min(fair, round(CALL_S / max(self._seconds, 1e-6))))

    def done(self, chunk: Chunk, results: Sequence[Scored]) -> None:
        """The results of a chunk, in its order."""
        for number, result in zip(chunk.numbers, results, strict=True):
            self._results[number] = result
            self._genes.pop(number)
            self._deaths.pop(number, None)
        mean = sum(result.seconds for result in results) / len(results)
        self._seconds = mean if self._seconds is None else EARLIER * self._seconds + (1 - EARLIER) * mean

    def returned(self, chunk: Chunk) -> None:
        """A chunk that nobody began."""
        self._waiting.extendleft(reversed(chunk.numbers))

    def died(self, chunk: Chunk, place: str) -> None:
        """The process that was scoring this chunk died."""
        alone = len(chunk.numbers) == 1
        for number in chunk.numbers:
            self._deaths[number] = self._deaths.get(number, 0) + alone
        number = chunk.numbers[0]
        if alone and self._deaths[number] > self._retries:
            reason = f"its process died {self._deaths.pop(number)} times"
            self._results[number] = Scored({}, reason, 0.0, place)
            self._genes.pop(number)
        else:
            self.returned(chunk)

    def ready(self, number: int) -> bool:
        """Whether the next results are all there."""
        return all(taken in self._results for taken in range(self._taken, self._taken + number))

    def take(self, number: int) -> list[Scored]:
        """The next results; they must be ready."""
        taken = [self._results.pop(self._taken + i) for i in range(number)]
        self._taken += number
        return taken
