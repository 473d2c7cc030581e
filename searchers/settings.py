"""The searchers that a recipe can name. Each one's settings stand beside it and build it."""

from typing import Annotated

from pydantic import Field

from searchers.evolution import EvolutionSettings
from searchers.grid import GridSettings
from searchers.local_search import LocalSettings
from searchers.model_based import ModelBasedSettings
from searchers.nat import NatSettings
from searchers.nsga import NsgaSettings
from searchers.random_search import RandomSettings
from searchers.regularised_evolution import RegularisedEvolutionSettings

# To add one: a frozen model with `kind: Literal["its name"]`, `build(problem) -> Searcher` and
# `most_asks(space) -> int`, how many candidates it asks for at most; named here.
SearcherSettings = Annotated[
    GridSettings
    | RandomSettings
    | LocalSettings
    | RegularisedEvolutionSettings
    | EvolutionSettings
    | NsgaSettings
    | ModelBasedSettings
    | NatSettings,
    Field(discriminator="kind"),
]
