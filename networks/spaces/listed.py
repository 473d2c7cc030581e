"""A few chosen candidates of another space, each with some seeds: to train them on their own."""

from collections.abc import Sequence
from functools import cached_property

from networks.architecture import Architecture, digest_of
from networks.complexity import Complexity
from networks.errors import UserError
from networks.spaces.space import Genes, SearchSpace


class ListedSpace(SearchSpace):
    """Genes: which of the listed candidates, which of the seeds. A seed changes weights and batches, not
    the architecture."""

    def __init__(self, space: SearchSpace, listed: Sequence[Genes], seeds: Sequence[int]) -> None:
        for position, genes in enumerate(listed):
            try:
                space.check(genes)
            except UserError as error:
                raise error.under(f"genes.{position}") from None
        if not listed or len(set(listed)) != len(listed):
            raise UserError("genes", list(listed), "at least one candidate, each once")
        if not seeds or len(set(seeds)) != len(seeds):
            raise UserError("seeds", list(seeds), "at least one seed, each once")
        self.space, self.listed, self.seeds = space, tuple(listed), tuple(seeds)

    @cached_property
    def digest(self) -> str:
        return digest_of(["listed", self.space.digest, self.listed, self.seeds])

    @property
    def positions(self) -> tuple[str, ...]:
        return ("candidate", "seed")

    def choices(self, prefix: Genes) -> tuple[object, ...]:
        return tuple(map(label, self.listed)) if not prefix else self.seeds

    def names(self, genes: Genes) -> dict[str, object]:
        """`setting` (the candidate's genes in that space), `seed`, and the choices in words."""
        self.check(genes)
        chosen = self.listed[genes[0]]
        return {"setting": label(chosen), "seed": self.seeds[genes[1]], **self.space.names(chosen)}

    def decode(self, genes: Genes) -> Architecture:
        self.check(genes)
        return self.space.decode(self.listed[genes[0]])

    def cost(self, genes: Genes) -> Complexity:
        self.check(genes)
        return self.space.cost(self.listed[genes[0]])


def label(genes: Genes) -> str:
    """``3 3 1 2 3 1``."""
    return " ".join(map(str, genes))
