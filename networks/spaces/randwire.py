"""RandWire's space: (generator, setting, seed), as in the paper's grid (1904.01569, Fig. 3)."""

from collections.abc import Sequence
from functools import cached_property

from networks.architecture import Architecture, digest_of
from networks.errors import UserError
from networks.generators import RandomGraph, Wiring
from networks.randwire import RandWireTemplate
from networks.spaces.space import Genes, SearchSpace


class RandWireSpace(SearchSpace):
    """Every given generator setting with every given seed.

    Genes: which generator (in order of first appearance), which of its settings, which seed. Raises
    `UserError` when nothing is given, something twice, or a setting needs more nodes than a stage has.
    """

    def __init__(
        self, template: RandWireTemplate, generators: Sequence[RandomGraph], seeds: Sequence[int]
    ) -> None:
        if not generators:
            raise UserError("generators", [], "at least one generator setting")
        if not seeds or len(set(seeds)) != len(seeds):
            raise UserError("seeds", list(seeds), "at least one seed, each once")
        self.template, self.seeds = template, tuple(seeds)
        self._settings: dict[str, list[RandomGraph]] = {}
        for position, generator in enumerate(generators):
            try:
                template.check(generator)
            except UserError as error:
                raise error.under(f"generators.{position}") from None
            settings = self._settings.setdefault(generator.kind, [])
            if generator in settings:
                raise UserError(f"generators.{position}", generator.label, "each setting once")
            settings.append(generator)

    @cached_property
    def digest(self) -> str:
        # A list: the order of the generators gives the genes their meaning, and JSON sorts keys.
        settings = [[kind, [one.setting for one in some]] for kind, some in self._settings.items()]
        return digest_of([self.template.model_dump(mode="json"), settings, self.seeds])

    @property
    def positions(self) -> tuple[str, ...]:
        return ("generator", "setting", "seed")

    def choices(self, prefix: Genes) -> tuple[object, ...]:
        kinds = tuple(self._settings)
        if len(prefix) == 0:
            return kinds
        if len(prefix) == 1:
            return tuple(generator.label for generator in self._settings[kinds[prefix[0]]])
        return self.seeds

    def names(self, genes: Genes) -> dict[str, object]:
        """generator, setting (the paper's notation), the setting's own values (k, p, m) and seed."""
        words = super().names(genes)
        return {**words, **self.generator(genes).setting}

    def generator(self, genes: Genes) -> RandomGraph:
        self.check(genes)
        return list(self._settings.values())[genes[0]][genes[1]]

    def wirings(self, genes: Genes) -> list[Wiring]:
        """The candidate's random graphs, one a stage."""
        return self.template.wirings(self.generator(genes), self.seeds[genes[2]])

    def decode(self, genes: Genes) -> Architecture:
        return self.template.build(self.wirings(genes))
