"""Spaces in which the operations of some edges of an architecture are choices."""

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

    @property
    def size(self) -> int:
        size = 1
        for options in self.options:
            size *= len(options)
        return size

    def legal(self, genes: Genes) -> bool:
        options = self.options
        return len(genes) == len(options) and all(
            0 <= gene < len(some) for gene, some in zip(genes, options, strict=True)
        )

    def operations(self, genes: Genes) -> tuple[str, ...]:
        """The registered operation that each gene stands for."""
        return tuple(some[gene].operation for gene, some in zip(genes, self.options, strict=True))

    def cost(self, genes: Genes) -> Complexity:
        """As `decode(genes).complexity()`, by adding up: exact, and some hundred times as fast."""
        self.check(genes)
        table = self.cost_table
        cost = self.base_cost
        for position, gene in enumerate(genes):
            cost = cost.plus(table[position][gene])
        return cost

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
