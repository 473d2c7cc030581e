"""The space of topologies: which wiring, how its edges are weighed, which seed (TopoNet, 2008.08261)."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

from networks.architecture import Architecture, digest_of
from networks.complexity import Complexity
from networks.errors import UserError
from networks.generators import RandomGraph
from networks.learnable import Which, learnable
from networks.spaces.space import Genes, SearchSpace
from networks.topologies import Topology
from networks.toponet import TopologyTemplate


class Wired(Protocol):
    """Something whose edges can be weighed."""

    @property
    def label(self) -> str: ...

    @property
    def names(self) -> dict[str, object]:
        """What is said of it beside its label."""
        ...

    def architecture(self, seed: int, learns: bool) -> Architecture:
        """The network of this seed; with `learns`, its edges have weights that are trained."""
        ...


class InTemplate(NamedTuple):
    """A topology between the nodes of a template."""

    template: TopologyTemplate
    topology: Topology | RandomGraph

    @property
    def label(self) -> str:
        return self.topology.label

    @property
    def names(self) -> dict[str, object]:
        return {"topology": self.topology.kind, **self.topology.setting}

    def architecture(self, seed: int, learns: bool) -> Architecture:
        return self.template.architecture(self.topology, seed, "real" if learns else "none")


class Given(NamedTuple):
    """A network that somebody has; `which` of its edges learn, and whether those that it has not are added
    (networks/learnable.py). `made_of`: what is said of where it comes from."""

    label: str
    network: Architecture
    which: Which = "skips"
    complete: bool = False
    made_of: tuple[tuple[str, object], ...] = ()

    @property
    def names(self) -> dict[str, object]:
        return dict(self.made_of)

    def architecture(self, seed: int, learns: bool) -> Architecture:
        return learnable(self.network, self.which, self.complete) if learns else self.network


class TopologySpace(SearchSpace):
    """Every given wiring with every way to weigh its edges and every seed.

    `edges`: what the ways of each wiring are called; None for edges as they are. Which one it is decides
    whether an architecture's edges learn, and how is the trainer's affair. Raises `UserError` for nothing
    given, something twice, or what cannot be built.
    """

    def __init__(
        self, wired: Sequence[Wired], edges: Sequence[Sequence[str | None]], seeds: Sequence[int] = (1,)
    ) -> None:
        for field, some in (
            ("topologies", [one.label for one in wired]), *(("edges", ways) for ways in edges),
            ("seeds", seeds),
        ):  # fmt: skip
            if not some or len(set(some)) != len(some):
                raise UserError(field, list(some), "at least one, each once")
        self.wired, self.edges, self.seeds = tuple(wired), tuple(map(tuple, edges)), tuple(seeds)
        for position, (one, ways) in enumerate(zip(self.wired, self.edges, strict=True)):
            for way in {way is not None for way in ways}:
                try:
                    one.architecture(self.seeds[0], way)
                except UserError as error:
                    raise error.under(f"topologies.{position}") from None

    @cached_property
    def digest(self) -> str:
        networks = [one.architecture(self.seeds[0], False).digest for one in self.wired]
        return digest_of(["topology", [one.label for one in self.wired], networks, self.edges, self.seeds])

    @property
    def positions(self) -> tuple[str, ...]:
        return ("topology", "edges", "seed")

    def choices(self, prefix: Genes) -> tuple[object, ...]:
        if not prefix:
            return tuple(one.label for one in self.wired)
        if len(prefix) == 1:
            return tuple("as they are" if way is None else way for way in self.edges[prefix[0]])
        return self.seeds

    def names(self, genes: Genes) -> dict[str, object]:
        """`setting` (the topology, and how its edges are weighed where they learn), both apart, and seed."""
        self.check(genes)
        wired, way = self.wired[genes[0]], self.edges[genes[0]][genes[1]]
        setting = wired.label if way is None else f"{wired.label}, {way}"
        return {"setting": setting, **super().names(genes), **wired.names}

    def learns(self, genes: Genes) -> bool:
        """Whether this candidate's edges do."""
        return self.edges[genes[0]][genes[1]] is not None

    def decode(self, genes: Genes) -> Architecture:
        self.check(genes)
        return self.wired[genes[0]].architecture(self.seeds[genes[2]], self.learns(genes))

    def cost(self, genes: Genes) -> Complexity:
        return self.decode(genes).complexity()
