"""Spaces in which the operations of some edges of an architecture are choices."""

import math
import random
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from networks.architecture import Architecture, digest_of
from networks.cells import SHORT, Links
from networks.complexity import Complexity
from networks.errors import UserError
from networks.graph import Edge
from networks.spaces.space import Genes, SearchSpace, drawn

End = Callable[..., Any]  # min or max
Kept = tuple[tuple[int, ...], ...]  # of each gene, the options that can be chosen, ascending


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

    Options at different sites are built independently of each other, so costs add up, and a supernet can hold
    every option of every site (networks/supernet.py). Where genes are not `independent`, as in cells whose
    nodes have two inputs each, a space says which of them go together: `possible`, `count`, `draw`, `extreme`
    and `closed`, all given the options that are kept.
    """

    kind: str
    independent = True

    @cached_property
    def template(self) -> Architecture:
        """The architecture that holds every site: the one whose genes are all 0."""
        return self.built((0,) * len(self.positions))

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
    def kept(self) -> Kept:
        """The options of each gene that can be chosen, ascending: all of them, but in a `NarrowedSpace`."""
        return tuple(tuple(range(len(some))) for some in self.options)

    def closed(self, kept: Kept) -> Kept:
        """These options without those that no candidate made of them has."""
        return kept

    def values(self, prefix: Genes) -> Sequence[int]:
        return self.possible(self.kept, prefix)

    def possible(self, kept: Kept, prefix: Genes) -> Sequence[int]:
        """What the gene after `prefix` can be in the part of the space that has these options."""
        return kept[len(prefix)]

    # What a supernet asks.

    def at(self, gene: int, option: int, edge: Edge) -> str:
        """The registered operation on an edge that this gene rules."""
        return self.options[gene][option].operation

    @property
    def twins(self) -> Mapping[int, int]:
        """Edges of a graph that share the weights of another one, by position: their own -> the other's."""
        return {}

    # What rewrites candidates (searchers/nat.py) asks. A space without `ends` is not made of cells.

    ends: tuple[tuple[int, int], ...] = ()
    cell_names: tuple[str, ...] = ("cell",)

    def becomes(self, gene: int, option: int) -> Mapping[str, int]:
        """The words of cells (networks/cells.py) that a gene which has this option can choose, its own among
        them, and their options. Raises `UserError` in a space that is none of cells."""
        return self._words[gene]

    @cached_property
    def _words(self) -> tuple[dict[str, int], ...]:
        found = []
        for some, kept in zip(self.options, self.kept, strict=True):
            unknown = [some[option].operation for option in kept if some[option].operation not in SHORT]
            if not self.ends or unknown:
                allowed = "a space of cells, whose operations are known to pass on, to cut or to compute"
                fix = f"Not so: {', '.join(unknown) or 'its wiring'}."
                raise UserError("space.kind", self.kind, allowed, fix)
            found.append({SHORT[some[option].operation]: option for option in kept})
        return tuple(found)

    @property
    def linked(self) -> int:
        """How many of the genes are links of cells: the first ones. The rest is not rewritten."""
        return len(self.positions)

    def cells(self, genes: Genes) -> tuple[Links, ...]:
        """The candidate's cells, whose links are its first genes in order. Raises as `becomes`."""
        known = [{option: word for word, option in some.items()} for some in self._words]
        return (Links(self.ends, tuple(some[gene] for some, gene in zip(known, genes, strict=True))),)

    def rewritten(self, genes: Genes, words: Sequence[str]) -> Genes:
        """The candidate with these operations instead, in the order of its genes."""
        links = zip(genes[: self.linked], words, strict=True)
        found = tuple(self.becomes(gene, option)[word] for gene, (option, word) in enumerate(links))
        return found + genes[self.linked :]

    def edit(self, before: Genes, after: Genes) -> str:
        """What changed, as words: ``0-1: nor_conv_3x3 to none``."""
        return "; ".join(
            f"{name}: {some[old].word} to {some[new].word}"
            for name, some, old, new in zip(self.positions, self.options, before, after, strict=True)
            if old != new
        )

    def parse(self, text: str) -> Genes:
        """A candidate as people write it. Raises `UserError` for anything else."""
        raise UserError("genes", text, "a list of numbers: this space has no other notation")

    @property
    def size(self) -> int:
        return self.count(self.kept)

    def count(self, kept: Kept) -> int:
        """How many candidates the part of the space has that has these options."""
        return math.prod(map(len, kept))

    def legal(self, genes: Genes) -> bool:
        if not self.independent:
            return super().legal(genes)
        return len(genes) == len(self.kept) and all(
            gene in values for gene, values in zip(genes, self.kept, strict=True)
        )

    def decode(self, genes: Genes) -> Architecture:
        self.check(genes)
        return self.built(genes)

    @abstractmethod
    def built(self, genes: Genes) -> Architecture:
        """The architecture with these options, whether they go together or not: what `decode` gives for those
        that do."""

    # The draws are those of any `SearchSpace`, without making words of every choice.

    def sample(self, rng: random.Random) -> Genes:
        return self.draw(self.kept, rng)

    def draw(self, kept: Kept, rng: random.Random) -> Genes:
        """One candidate of the part of the space that has these options: each gene uniform over them, but
        in a space that is sampled otherwise."""
        return tuple([drawn(values, rng) for values in kept])

    def mutate(self, genes: Genes, rng: random.Random, probability: float) -> Genes:
        if not self.independent:
            return super().mutate(genes, rng, probability)
        return tuple(
            [
                drawn(values, rng) if rng.random() < probability or gene not in values else gene
                for gene, values in zip(genes, self.kept, strict=True)
            ]
        )

    def crossover(self, first: Genes, second: Genes, rng: random.Random) -> Genes:
        if not self.independent:
            return super().crossover(first, second, rng)
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
        """Of the candidate whose genes are all 0."""
        return self.built((0,) * len(self.positions)).complexity()

    @cached_property
    def cost_table(self) -> tuple[tuple[Complexity, ...], ...]:
        """By gene and option: what that option costs more than option 0 of the same gene."""
        zero = (0,) * len(self.positions)
        return tuple(
            tuple(
                self.built((*zero[:i], option, *zero[i + 1 :])).complexity().minus(self.base_cost)
                for option in range(len(some))
            )
            for i, some in enumerate(self.options)
        )

    def extremes(self, cost: str) -> tuple[int, int]:
        """The smallest and largest `params`, `macs` or `activations` of the space; exact."""
        low, high = (self.cost(self.extreme(self.kept, cost, end)) for end in (min, max))
        return getattr(low, cost), getattr(high, cost)

    def extreme(self, kept: Kept, cost: str, end: End) -> Genes:
        """A candidate made of these options whose `cost` is the smallest (`end`: min) or largest (max)."""
        return tuple(
            end(values, key=lambda option: getattr(some[option], cost))
            for some, values in zip(self.cost_table, kept, strict=True)
        )
