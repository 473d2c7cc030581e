"""The search space: candidates as genes, and the architecture that each decodes to."""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from networks.architecture import Architecture
from networks.complexity import Complexity
from networks.errors import UserError

Genes = tuple[int, ...]


class SearchSpace(ABC):
    """A finite set of candidates. A candidate is its genes: one index into a list of choices a position.

    Positions are fixed; the number of choices at one may depend on the genes before it (`choices`).
    """

    @property
    @abstractmethod
    def digest(self) -> str:
        """Identifies the space: equal spaces give equal digests."""

    @property
    @abstractmethod
    def positions(self) -> tuple[str, ...]:
        """The legend: a name for each gene."""

    @abstractmethod
    def choices(self, prefix: Genes) -> tuple[object, ...]:
        """What the gene after `prefix` chooses from."""

    def values(self, prefix: Genes) -> Sequence[int]:
        """What the gene after `prefix` can be, ascending: all of `choices(prefix)` by number, but in a
        space from which some were dropped."""
        return range(len(self.choices(prefix)))

    @abstractmethod
    def decode(self, genes: Genes) -> Architecture:
        """The architecture of legal genes; `UserError` for others."""

    def names(self, genes: Genes) -> dict[str, object]:
        """Genes in words: position -> the chosen value."""
        self.check(genes)
        return {name: self.choices(genes[:i])[genes[i]] for i, name in enumerate(self.positions)}

    def check(self, genes: Genes) -> None:
        """Raise `UserError` unless the genes are legal."""
        if len(genes) != len(self.positions):
            raise UserError("genes", genes, f"{len(self.positions)} genes: {', '.join(self.positions)}")
        for i, name in enumerate(self.positions):
            values = self.values(genes[:i])
            if genes[i] not in values:
                whole = len(values) == len(self.choices(genes[:i]))
                allowed = f"0 to {len(values) - 1}" if whole else " or ".join(map(str, values))
                raise UserError(f"genes.{i} ({name})", genes[i], allowed)

    @property
    def size(self) -> int:
        """How many candidates there are."""
        return sum(1 for _ in self.enumerate())

    def enumerate(self) -> Iterator[Genes]:
        """All candidates, the last gene running fastest."""
        yield from self._below(())

    def _below(self, prefix: Genes) -> Iterator[Genes]:
        if len(prefix) == len(self.positions):
            yield prefix
            return
        for gene in self.values(prefix):
            yield from self._below((*prefix, gene))

    def sample(self, rng: random.Random) -> Genes:
        """One candidate: each gene uniform over its choices, in order."""
        genes: Genes = ()
        for _ in self.positions:
            genes = (*genes, drawn(self.values(genes), rng))
        return genes

    def mutate(self, genes: Genes, rng: random.Random, probability: float) -> Genes:
        """Each gene drawn again with this probability, uniformly, its own value included (SPOS).

        A gene that a changed one before it made illegal is drawn again too.
        """
        mutant: Genes = ()
        for gene in genes:
            values = self.values(mutant)
            again = rng.random() < probability
            mutant = (*mutant, drawn(values, rng) if again or gene not in values else gene)
        return mutant

    def crossover(self, first: Genes, second: Genes, rng: random.Random) -> Genes:
        """Each gene from either parent. One that is illegal after those before it is drawn anew."""
        child: Genes = ()
        for pair in zip(first, second, strict=True):
            values = self.values(child)
            gene = pair[rng.randrange(2)]
            child = (*child, gene if gene in values else drawn(values, rng))
        return child

    def neighbours(self, genes: Genes) -> Iterator[Genes]:
        """All candidates that differ in exactly one gene, in order."""
        for i, gene in enumerate(genes):
            for other in self.values(genes[:i]):
                neighbour = (*genes[:i], other, *genes[i + 1 :])
                if other != gene and self.legal(neighbour):
                    yield neighbour

    def legal(self, genes: Genes) -> bool:
        """Whether `check` passes."""
        return len(genes) == len(self.positions) and all(
            gene in self.values(genes[:i]) for i, gene in enumerate(genes)
        )

    def cost(self, genes: Genes) -> Complexity:
        """Parameters, multiply-adds and activations of a candidate at the space's image shape."""
        return self.decode(genes).complexity()


def drawn(values: Sequence[int], rng: random.Random) -> int:
    """One of them, uniformly."""
    return values[rng.randrange(len(values))]
