"""Spaces in which the operations of some edges of an architecture are choices."""

import math
import random
from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

from networks.architecture import Architecture, digest_of
from networks.complexity import Complexity
from networks.spaces.space import Genes, SearchSpace


class Option(NamedTuple):
    """One choice: the word that the field uses, and the registered operation it stands for."""

    word: str
    operation: str


class Site(NamedTuple):
    """An edge whose operation is a choice: position of the stage, position of the edge in its graph."""

    stage: int
    edge: int


class ChoiceSpace(SearchSpace):
    """A template and, for each gene, the options of the edges that it rules.

    Genes are independent of each other, so costs add up, sizes multiply, and a supernet can hold every
    option of every site (networks/supernet.py).
    """

    kind: str

    @property
    @abstractmethod
    def template(self) -> Architecture:
        """The architecture of the candidate whose genes are all 0."""

    @property
    @abstractmethod
    def options(self) -> tuple[tuple[Option, ...], ...]:
        """What each gene chooses from."""

    @property
    @abstractmethod
    def sites(self) -> Mapping[Site, int]:
        """Which gene rules which edge."""

    @cached_property
    def digest(self) -> str:
        sites = sorted([site.stage, site.edge, gene] for site, gene in self.sites.items())
        return digest_of([self.kind, self.template.model_dump(mode="json"), self.options, sites])

    def choices(self, prefix: Genes) -> tuple[object, ...]:
        return tuple(option.word for option in self.options[len(prefix)])

    @cached_property
    def _counts(self) -> tuple[int, ...]:
        """Options of each gene."""
        return tuple(map(len, self.options))

    @property
    def size(self) -> int:
        return math.prod(self._counts)

    def legal(self, genes: Genes) -> bool:
        counts = self._counts
        return len(genes) == len(counts) and all(
            0 <= gene < count for gene, count in zip(genes, counts, strict=True)
        )

    # The draws are those of any `SearchSpace`, without making words of every choice.

    def sample(self, rng: random.Random) -> Genes:
        return tuple([rng.randrange(count) for count in self._counts])

    def mutate(self, genes: Genes, rng: random.Random, probability: float) -> Genes:
        return tuple(
            [
                rng.randrange(count) if rng.random() < probability else gene
                for gene, count in zip(genes, self._counts, strict=True)
            ]
        )

    def crossover(self, first: Genes, second: Genes, rng: random.Random) -> Genes:
        return tuple([pair[rng.randrange(2)] for pair in zip(first, second, strict=True)])

    def operations(self, genes: Genes) -> tuple[str, ...]:
        """The registered operation that each gene stands for."""
        return tuple(some[gene].operation for gene, some in zip(genes, self.options, strict=True))

    def cost(self, genes: Genes) -> Complexity:
        """As `decode(genes).complexity()`, by adding up: exact, and some hundred times as fast."""
        if not self.legal(genes):
            self.check(genes)
        chosen = [table[gene] for table, gene in zip(self.cost_table, genes, strict=True)]
        return Complexity(*map(sum, zip(self.base_cost, *chosen, strict=True)))

    @cached_property
    def base_cost(self) -> Complexity:
        """Of the template."""
        return self.template.complexity()

    @cached_property
    def cost_table(self) -> tuple[tuple[Complexity, ...], ...]:
        """By gene and option: what that option costs more than option 0 of the same gene."""
        zero = (0,) * len(self.positions)
        return tuple(
            tuple(
                self.decode((*zero[:i], option, *zero[i + 1 :])).complexity().minus(self.base_cost)
                for option in range(len(some))
            )
            for i, some in enumerate(self.options)
        )

    def extremes(self, cost: str) -> tuple[int, int]:
        """The smallest and largest `params`, `macs` or `activations` of the space; exact."""
        table = [[getattr(option, cost) for option in some] for some in self.cost_table]
        base = getattr(self.base_cost, cost)
        return base + sum(map(min, table)), base + sum(map(max, table))
