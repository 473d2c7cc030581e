"""Recipes' spaces whose candidates differ in their edges: topologies between the nodes of a template, and
networks that somebody has."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from cluster.combinations import combined
from cluster.recipe_base import Section
from cluster.recipe_errors import Mistakes
from cluster.recipe_spaces import read_architecture
from networks.architecture import Architecture, Shape
from networks.errors import UserError, nearest
from networks.generators import GENERATORS, RandomGraph
from networks.learnable import Which
from networks.spaces.space import Genes
from networks.spaces.topology import Given, InTemplate, TopologySpace
from networks.standard import STANDARD, standard_topology
from networks.topologies import TOPOLOGIES, Complete, Plain, Residual, Topology
from networks.toponet import TopologySettings, TopologyTemplate
from trainers.topology import EdgeSettings
from trainers.training import TrainingSettings

AS_THEY_ARE: Literal["as they are"] = "as they are"

Edges = Annotated[list[Literal["as they are"] | dict[str, Any]], Field(min_length=1)]
Seeds = Annotated[int, Field(ge=1)] | Annotated[list[int], Field(min_length=1)]


def seed_list(seeds: int | list[int]) -> list[int]:
    return list(range(1, seeds + 1)) if isinstance(seeds, int) else seeds


def expand_edges(entries: Edges) -> list[EdgeSettings | None]:
    """How edges are weighed, in order: None as they are; an entry with lists is every combination."""
    found: list[EdgeSettings | None] = []
    mistakes: list[UserError] = []
    for position, entry in enumerate(entries):
        if isinstance(entry, str):
            found.append(None)
            continue
        try:
            found += combined(entry, EdgeSettings)
        except UserError as error:
            mistakes.append(error.under(str(position)))
    if mistakes:
        raise Mistakes(mistakes)
    return found


def checked_edges(entries: Edges, field: str = "") -> Edges:
    """Raise `UserError` for ways that are not known, or given twice."""
    try:
        found = expand_edges(entries)
    except UserError as error:
        raise (error.under(field) if field else error) from None
    labels = [AS_THEY_ARE if one is None else one.label for one in found]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise UserError(field, twice[0], "each way once")
    return entries


def as_they_are() -> Edges:
    return [AS_THEY_ARE]


class WeighedEdges(Section):
    """`edges`: a list of ``as they are`` and of settings of trainers/topology.py, such as
    ``{penalty: adaptive, strength: [0.001, 0.01]}``; an entry of the space may have a list of its own.
    `seeds`: a list, or a number n for 1..n."""

    edges: Edges = Field(default_factory=as_they_are)
    seeds: Seeds = 3

    @field_validator("edges")
    @classmethod
    def _each_way_once(cls, entries: Edges) -> Edges:
        return checked_edges(entries)

    @property
    def ways(self) -> list[list[EdgeSettings | None]]:
        """How the edges of each wiring are weighed."""
        raise NotImplementedError

    def training_of(self, genes: Genes, training: TrainingSettings) -> TrainingSettings:
        """How a candidate is trained: as the recipe says, its edges as its genes say."""
        return training.model_copy(update={"edges": self.ways[genes[0]][genes[1]]})

    def _space(self, wired: Sequence[InTemplate | Given]) -> TopologySpace:
        labels = [[None if way is None else way.label for way in ways] for ways in self.ways]
        try:
            return TopologySpace(wired, labels, seed_list(self.seeds))
        except UserError as error:
            raise error.under("space") from None


class TopologySection(WeighedEdges, TopologySettings):
    """Topologies over the same nodes. An entry names a fixed one (``{topology: residual, interval: [1, 2]}``;
    plain, residual, complete, dense) or a random one (``{generator: WS, k: 4, p: [0.25, 0.75]}``), and may
    say how its edges are weighed (``edges``)."""

    kind: Literal["topology"] = "topology"
    topologies: Annotated[list[dict[str, Any]], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        mistakes, seen = [], set[str]()
        for position, entry in enumerate(self.topologies):
            place = f"topologies.{position}"
            try:
                for one in expand_topology(entry):
                    if one.label in seen:
                        raise UserError("", one.label, "each topology once")
                    seen.add(one.label)
                    _check_nodes(one, self.nodes)
                checked_edges(_own_edges(entry) or self.edges, "edges")
            except UserError as error:
                mistakes.append(error.under(place))
        if mistakes:
            raise Mistakes(mistakes)
        return self

    @cached_property
    def _expanded(self) -> list[tuple[Topology | RandomGraph, Edges]]:
        return [
            (one, _own_edges(entry) or self.edges)
            for entry in self.topologies
            for one in expand_topology(entry)
        ]

    @property
    def ways(self) -> list[list[EdgeSettings | None]]:
        return [expand_edges(edges) for _, edges in self._expanded]

    def build(self, image: Shape, classes: int) -> TopologySpace:
        settings = self.model_dump(include=set(TopologySettings.model_fields))
        template = TopologyTemplate(image=image, classes=classes, **settings)
        return self._space([InTemplate(template, one) for one, _ in self._expanded])


def _own_edges(entry: Mapping[str, Any]) -> Edges | None:
    """What an entry says of its edges. Raises `UserError` for what is no list of ways."""
    edges = entry.get("edges")
    if edges is None:
        return None
    allowed = f"a list of {AS_THEY_ARE!r} and of mappings such as {{penalty: none}}"
    if not isinstance(edges, list) or not edges:
        raise UserError("edges", edges, allowed)
    for one in edges:
        if one != AS_THEY_ARE and not isinstance(one, dict):
            raise UserError("edges", one, allowed)
    return edges


def expand_topology(entry: Mapping[str, Any]) -> Sequence[Topology | RandomGraph]:
    """Every topology that one entry stands for."""
    kinds: dict[str, tuple[str, Mapping[str, type[Any]]]] = {
        "topology": ("topology", TOPOLOGIES), "generator": ("generator", GENERATORS),
    }  # fmt: skip
    given = [key for key in kinds if key in entry]
    if len(given) != 1:
        allowed = f"a topology ({', '.join(TOPOLOGIES)}) or a generator ({', '.join(GENERATORS)})"
        raise UserError("", dict(entry), allowed)
    field, models = kinds[given[0]]
    kind = entry[field]
    if not isinstance(kind, str) or kind not in models:
        raise UserError(field, kind, ", ".join(models), nearest(str(kind), models))
    return combined({key: value for key, value in entry.items() if key != "edges"}, models[kind])


def _check_nodes(one: Topology | RandomGraph, nodes: int) -> None:
    """Raise `UserError` where so many nodes, input and output included, cannot be wired so."""
    if isinstance(one, Topology):
        one.check(nodes)
        return
    Plain().check(nodes)
    one.check(nodes - 2)


class GivenNetwork(Section):
    """`architecture`: the name of a standard network, a file (a run's best/network.json, say), or an
    architecture itself. The blocks of a standard one are nodes, their shortcuts edges. `learn`: which of its
    edges have weights that are trained, where the recipe has any trained: those that pass on what they read
    (skips), or all. `complete`: edges that it has not are added wherever they fit. `edges`: its own ways to
    weigh them. `parent`, `edit`: the id of the candidate that it was made of, and how. `of`: what else is to
    be said of it."""

    label: str = ""
    architecture: Architecture | str
    learn: Which = "skips"
    complete: bool = False
    edges: Edges | None = None
    parent: str = ""
    edit: str = ""
    of: dict[str, Any] = Field(default_factory=dict)

    @field_validator("architecture", mode="before")
    @classmethod
    def _read(cls, given: object) -> object:
        return read_architecture(given) if isinstance(given, str) and given not in STANDARD else given

    @field_validator("edges")
    @classmethod
    def _each_way_once(cls, entries: Edges | None) -> Edges | None:
        return entries and checked_edges(entries)

    @property
    def name(self) -> str:
        """Its label; without one the standard network's name, or how the architecture's digest begins."""
        known = self.architecture if isinstance(self.architecture, str) else self.architecture.digest[:12]
        return self.label or known

    def build(self, image: Shape, classes: int) -> Given:
        network = self.architecture
        if isinstance(network, str):
            topology = Complete() if self.complete else Residual()
            network = standard_topology(network, image, classes, topology)
        for field, own, needed in (("image", network.image, image), ("classes", network.classes, classes)):
            if own != needed:
                raise UserError(f"architecture.{field}", own, f"{needed}, as the data has")
        return Given(self.name, network, self.learn, self.complete, tuple(self.of.items()))


class NetworksSection(WeighedEdges):
    """Networks that somebody has: standard ones, winners of other searches. Each is trained with its edges
    weighed in each way."""

    kind: Literal["networks"] = "networks"
    networks: Annotated[list[GivenNetwork], Field(min_length=1)]

    @field_validator("networks")
    @classmethod
    def _once(cls, networks: list[GivenNetwork]) -> list[GivenNetwork]:
        names = [one.name for one in networks]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise UserError("", twice[0], "each network once, or under labels of their own")
        return networks

    @property
    def ways(self) -> list[list[EdgeSettings | None]]:
        return [expand_edges(one.edges or self.edges) for one in self.networks]

    def build(self, image: Shape, classes: int) -> TopologySpace:
        return self._space(list(self._given(image, classes)))

    def _given(self, image: Shape, classes: int) -> Iterable[Given]:
        for position, one in enumerate(self.networks):
            try:
                yield one.build(image, classes)
            except UserError as error:
                raise error.under(f"space.networks.{position}") from None
