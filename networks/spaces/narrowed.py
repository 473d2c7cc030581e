"""A space of choices from which some options were dropped."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from networks.architecture import Architecture, digest_of
from networks.complexity import Complexity
from networks.errors import UserError
from networks.graph import Edge
from networks.spaces.choices import ChoiceSpace, End, Kept, Option, Site
from networks.spaces.space import Genes


class Operator(NamedTuple):
    """An option of a gene, by number: what shrinking ranks and drops."""

    gene: int
    option: int


class NarrowedSpace(ChoiceSpace):
    """Some of the candidates of `whole`, with the genes, names and costs that they have there, so that a
    candidate stays the same while the space around it shrinks."""

    def __init__(self, whole: ChoiceSpace, kept: Kept) -> None:
        """Raises `UserError` unless `kept` names, for every gene, at least one of its options, ascending, and
        each of them is one that some candidate has."""
        if len(kept) != len(whole.kept):
            raise UserError("kept", kept, f"a list of options for each of {len(whole.kept)} genes")
        for name, given, there in zip(whole.positions, kept, whole.kept, strict=True):
            if not given or list(given) != sorted(set(given) & set(there)):
                raise UserError(f"kept ({name})", given, f"one or more of {there}, ascending")
        if whole.closed(kept) != kept:
            raise UserError("kept", kept, "options that some candidate has", f"Those: {whole.closed(kept)}.")
        self.whole, self._kept, self.kind, self.ends = whole, kept, whole.kind, whole.ends

    @property
    def independent(self) -> bool:  # type: ignore[override]
        return self.whole.independent

    @cached_property
    def kept(self) -> Kept:
        return self._kept

    @cached_property
    def digest(self) -> str:
        return digest_of(["narrowed", self.whole.digest, self.kept])

    @property
    def positions(self) -> tuple[str, ...]:
        return self.whole.positions

    @cached_property
    def template(self) -> Architecture:
        return self.whole.template

    def at(self, gene: int, option: int, edge: Edge) -> str:
        return self.whole.at(gene, option, edge)

    @property
    def twins(self) -> Mapping[int, int]:
        return self.whole.twins

    def parse(self, text: str) -> Genes:
        return self.whole.parse(text)

    @property
    def options(self) -> tuple[tuple[Option, ...], ...]:
        return self.whole.options

    @property
    def sites(self) -> Mapping[Site, int]:
        return self.whole.sites

    @cached_property
    def cost_table(self) -> tuple[tuple[Complexity, ...], ...]:
        return self.whole.cost_table

    def draw(self, kept: Kept, rng: random.Random) -> Genes:
        return self.whole.draw(kept, rng)

    def possible(self, kept: Kept, prefix: Genes) -> Sequence[int]:
        return self.whole.possible(kept, prefix)

    def count(self, kept: Kept) -> int:
        return self.whole.count(kept)

    def closed(self, kept: Kept) -> Kept:
        return self.whole.closed(kept)

    def extreme(self, kept: Kept, cost: str, end: End) -> Genes:
        return self.whole.extreme(kept, cost, end)

    def neighbours(self, genes: Genes) -> Iterator[Genes]:
        return filter(self.legal, self.whole.neighbours(genes))

    def built(self, genes: Genes) -> Architecture:
        return self.whole.built(genes)

    def names(self, genes: Genes) -> dict[str, object]:
        self.check(genes)
        return self.whole.names(genes)


def narrowed(space: ChoiceSpace, dropped: Iterable[Operator]) -> ChoiceSpace:
    """The space without these options, and without those that no candidate has then; the space itself when
    nothing is dropped. Raises `UserError` when a choice would be left empty."""
    gone = set(dropped)
    if not gone:
        return space
    kept = tuple(
        tuple(option for option in values if (gene, option) not in gone)
        for gene, values in enumerate(space.kept)
    )
    return NarrowedSpace(space.whole if isinstance(space, NarrowedSpace) else space, space.closed(kept))


def operators(space: ChoiceSpace) -> list[Operator]:
    """All options that can be chosen, gene by gene."""
    return [Operator(gene, option) for gene, values in enumerate(space.kept) for option in values]
