"""The recipe: everything about a search, as one YAML file. Unknown keys are errors."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from cluster.combinations import combined
from cluster.recipe_base import BaseRecipe, Section
from cluster.recipe_errors import Mistakes, RecipeError, explain, single, together
from cluster.recipe_spaces import SEARCHED_SPACES, ChoiceSection
from cluster.recipe_topology import NetworksSection, TopologySection, WeighedEdges
from cluster.recipe_yaml import read_yaml
from cluster.search_recipe import SearchRecipe
from networks.architecture import Shape
from networks.errors import UserError, nearest
from networks.generators import GENERATORS, RandomGraph, paper_grid
from networks.randwire import RandWireSettings, RandWireTemplate
from networks.spaces.listed import ListedSpace
from networks.spaces.randwire import RandWireSpace
from networks.spaces.space import Genes
from searchers.halving import rungs
from trainers.training import TrainingSettings


class RandWireSection(RandWireSettings):
    """RandWire's grid. `generators` is ``paper`` (the grid of its Fig. 3) or a list such as
    ``{generator: WS, k: [2, 4], p: [0, 0.5]}``: every combination of the listed values. `seeds` is a
    list, or a number n for 1..n. Image shape and classes follow the data unless given."""

    kind: Literal["randwire"] = "randwire"
    generators: Literal["paper"] | Annotated[list[dict[str, Any]], Field(min_length=1)] = "paper"
    seeds: Annotated[int, Field(ge=1)] | Annotated[list[int], Field(min_length=1)] = 5
    image: Shape | None = None
    classes: int | None = Field(None, ge=2)

    @field_validator("generators")
    @classmethod
    def _known(
        cls, entries: Literal["paper"] | list[dict[str, Any]]
    ) -> Literal["paper"] | list[dict[str, Any]]:
        expand_generators(entries)
        return entries

    @field_validator("seeds")
    @classmethod
    def _once(cls, seeds: int | list[int]) -> int | list[int]:
        if isinstance(seeds, list) and len(set(seeds)) < len(seeds):
            raise UserError("", seeds, "each seed once")
        return seeds

    @model_validator(mode="after")
    def _check(self) -> Self:
        template = RandWireTemplate(**self._settings())
        entries = [paper_grid()] if self.generators == "paper" else map(_expand, self.generators)
        seen: set[RandomGraph] = set()
        mistakes = []
        for position, generators in enumerate(entries):
            place = "generators" if self.generators == "paper" else f"generators.{position}"
            for generator in generators:
                try:
                    template.check(generator)
                except UserError as error:
                    mistakes.append(error.under(place))
                if generator in seen:
                    mistakes.append(UserError(place, generator.label, "each setting once"))
                seen.add(generator)
        if mistakes:
            raise Mistakes(mistakes)
        return self

    def _settings(self) -> dict[str, Any]:
        return self.model_dump(include=set(RandWireSettings.model_fields))

    def build(self, image: Shape, classes: int) -> RandWireSpace:
        """The space for data of this shape. Raises `UserError` for settings that cannot be built."""
        for field, given, found in (("image", self.image, image), ("classes", self.classes, classes)):
            if given is not None and given != found:
                raise UserError(f"space.{field}", given, f"{found}, as the data has (or leave it out)")
        template = RandWireTemplate(image=image, classes=classes, **self._settings())
        seeds = list(range(1, self.seeds + 1)) if isinstance(self.seeds, int) else self.seeds
        try:
            return RandWireSpace(template, expand_generators(self.generators), seeds)
        except UserError as error:
            raise error.under("space") from None


def expand_generators(entries: Literal["paper"] | Sequence[Mapping[str, Any]]) -> list[RandomGraph]:
    """The generator settings that the entries of a recipe stand for, in order."""
    if entries == "paper":
        return paper_grid()
    settings: list[RandomGraph] = []
    mistakes: list[UserError] = []
    for position, entry in enumerate(entries):
        assert not isinstance(entry, str)
        try:
            settings += _expand(entry)
        except UserError as error:
            mistakes.append(error.under(str(position)))
    if mistakes:
        raise Mistakes(mistakes)
    return settings


def _expand(entry: Mapping[str, Any]) -> list[RandomGraph]:
    """Every generator setting that one entry stands for."""
    kind = entry.get("generator")
    if not isinstance(kind, str) or kind not in GENERATORS:
        raise UserError("generator", kind, ", ".join(GENERATORS), nearest(kind, GENERATORS) if kind else "")
    return combined(entry, GENERATORS[kind])


class NoStopping(Section):
    """Every candidate is trained to the end."""

    kind: Literal["none"] = "none"


class HalvingStopping(Section):
    """Synchronous successive halving: at epochs grace, grace*eta, … the best 1/eta go on. Which stop
    depends on scores alone."""

    kind: Literal["halving"] = "halving"
    eta: int = Field(3, ge=2)
    grace: int = Field(1, ge=1)


class AshaStopping(Section):
    """Tune's asynchronous halving: never waits; which candidates stop depends on timing. Needs Ray."""

    kind: Literal["asha"] = "asha"
    eta: int = Field(3, ge=2)
    grace: int = Field(1, ge=1)


Stopping = Annotated[NoStopping | HalvingStopping | AshaStopping, Field(discriminator="kind")]


class ListedSection(Section):
    """Chosen candidates of a space of choices, each trained on its own with the seeds 1..`seeds`."""

    kind: Literal["listed"] = "listed"
    space: ChoiceSection
    genes: tuple[tuple[int, ...], ...] = Field(min_length=1)
    seeds: int = Field(1, ge=1)

    def build(self, image: Shape, classes: int) -> ListedSpace:
        space = self.space.build(image, classes)
        try:
            return ListedSpace(space, self.genes, range(1, self.seeds + 1))
        except UserError as error:
            raise error.under("space") from None


class Snapshots(Section):
    """Topologies along their optimisation, each trained again with its edges' weights fixed: at so many
    `points` of the training, equally far apart, the last its end; `of` the best of the candidates whose edges
    learn, or of all. `seeds`: how often each is trained. `training`: None is that of the candidates."""

    points: int = Field(5, ge=1)
    of: Literal["best", "all"] = "best"
    seeds: int = Field(3, ge=1)
    training: TrainingSettings | None = None

    def epochs(self, of: int) -> list[int]:
        """After which epochs, of so many."""
        return sorted({max(1, round(of * point / self.points)) for point in range(1, self.points + 1)})


GridSpace = Annotated[
    RandWireSection | ListedSection | TopologySection | NetworksSection, Field(discriminator="kind")
]


class Recipe(BaseRecipe):
    """A grid of candidates, each trained. `metric` is maximised."""

    space: GridSpace
    training: TrainingSettings = TrainingSettings()
    stopping: Stopping = HalvingStopping()
    metric: Literal["validation_accuracy"] = "validation_accuracy"
    # Left out where it is not there, so that recipes keep the digests that they had before it could be.
    snapshots: Snapshots | None = Field(None, exclude_if=lambda value: value is None)

    @field_validator("space", mode="before")
    @classmethod
    def _randwire_by_default(cls, space: object) -> object:
        return {"kind": "randwire", **space} if isinstance(space, dict) else space

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.resources.max_workers is not None:
            fix = "A grid takes what the cluster has; resources.workers sizes a Ray of weft's own."
            raise UserError("resources.max_workers", self.resources.max_workers, "nothing in a grid", fix)
        if not isinstance(self.stopping, NoStopping) and self.stopping.grace > self.training.epochs:
            raise UserError(
                "stopping.grace", self.stopping.grace, f"1 to training.epochs ({self.training.epochs})"
            )
        if self.training.edges is not None and isinstance(self.space, WeighedEdges):
            raise UserError("training.edges", self.training.edges.label, "nothing here: it is in space.edges")
        if self.snapshots is not None:
            self._check_snapshots(self.snapshots)
        if self.training.precision == "mixed" and not self.resources.gpus:
            raise UserError("training.precision", "mixed", "auto or float32 without resources.gpus")
        return self

    def _check_snapshots(self, snapshots: Snapshots) -> None:
        learn = isinstance(self.space, WeighedEdges) and any(
            way is not None for ways in self.space.ways for way in ways
        )
        if not learn and self.training.edges is None:
            raise UserError("snapshots", "given", "a space with edges that learn (space.edges)")
        if snapshots.points > self.training.epochs:
            raise UserError(
                "snapshots.points", snapshots.points, f"1 to training.epochs ({self.training.epochs})"
            )

    def training_of(self, genes: Genes) -> TrainingSettings:
        """How one candidate is trained."""
        space = self.space
        return space.training_of(genes, self.training) if isinstance(space, WeighedEdges) else self.training

    @property
    def rungs(self) -> list[int]:
        """Epochs at which a candidate may stop; the last is the end of training."""
        if isinstance(self.stopping, NoStopping):
            return [self.training.epochs]
        return rungs(self.training.epochs, self.stopping.grace, self.stopping.eta)


AnyRecipe = Recipe | SearchRecipe


def recipe_model(raw: Mapping[str, Any]) -> type[Recipe] | type[SearchRecipe]:
    """Which kind of recipe this is: one with a `searcher`, or whose space only a searcher can search."""
    space = raw.get("space")
    kind = space.get("kind") if isinstance(space, dict) else None
    return SearchRecipe if "searcher" in raw or kind in SEARCHED_SPACES else Recipe


def load_recipe(name: str, changes: Sequence[str] = ()) -> AnyRecipe:
    """Read a recipe file, or one that comes with weft by its name; then apply ``a.b=c`` changes.

    Raises `RecipeError`, which names the file and every mistake in it.
    """
    path = find_recipe(name)
    try:
        raw = read_yaml(path.read_bytes())
    except UserError as error:
        raise RecipeError(path, [error]) from None
    if not isinstance(raw, dict):
        raise RecipeError(path, [UserError("", raw, "a mapping: version, name, space, …")])
    together([partial(apply_change, raw, change) for change in changes])
    model = recipe_model(raw)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise RecipeError(path, explain(error, model, raw), changes) from None


@contextmanager
def naming_recipe(name: str, changes: Sequence[str] = ()) -> Iterator[None]:
    """Name the recipe's file in `UserError`s of its fields that only show when it is put to use."""
    try:
        yield
    except RecipeError:
        raise
    except UserError as error:
        fields = {*Recipe.model_fields, *SearchRecipe.model_fields}
        if any(mistake.field.split(".")[0] not in fields for mistake in single(error)):
            raise
        raise RecipeError(find_recipe(name), [error], changes) from error.__cause__


def find_recipe(name: str) -> Path:
    """The file of this path, or the packaged recipe of this name."""
    path = Path(name)
    if path.is_file():
        return path
    with resources.as_file(resources.files("recipes")) as folder:
        packaged = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    if path.suffix in {"", ".yaml", ".yml"} and path.stem in packaged and path.parent.name in {"", "recipes"}:
        return packaged[path.stem]
    beside = [str(file) for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    allowed = f"a file, or one of the recipes that come with weft: {', '.join(packaged)}"
    raise UserError("RECIPE", name, allowed, nearest(name, [*packaged, *beside]))


def apply_change(raw: dict[str, Any], change: str) -> None:
    """Set one value in a recipe: ``training.epochs=3``. The value is read as YAML."""
    dotted, equals, text = change.partition("=")
    parts = dotted.split(".")
    if not equals or not all(parts):
        raise UserError("--set", change, "a.b=value, such as training.epochs=3")
    try:
        value = read_yaml(text.encode())
    except UserError as error:
        raise UserError("--set", change, "a.b=value with a value in YAML", error.fix) from None
    place: Any = raw
    for depth, part in enumerate(parts):
        key: Any = part
        if isinstance(place, list):
            if not part.isdigit() or int(part) >= len(place):
                raise UserError("--set", change, f"0 to {len(place) - 1} for {'.'.join(parts[:depth])}")
            key = int(part)
        elif not isinstance(place, dict):
            raise UserError("--set", change, f"a key of a section; {'.'.join(parts[:depth])} is {place!r}")
        if depth == len(parts) - 1:
            place[key] = value
        else:
            if isinstance(place, dict) and place.get(key) is None:
                place[key] = {}
            place = place[key]
