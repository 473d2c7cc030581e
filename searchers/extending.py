"""More budget for a searcher whose first asks do not depend on how many there will be."""

from networks.errors import UserError
from searchers.evolution import EvolutionSettings
from searchers.local_search import LocalSettings
from searchers.model_based import ModelBasedSettings
from searchers.nsga import NsgaSettings
from searchers.random_search import RandomSettings
from searchers.regularised_evolution import RegularisedEvolutionSettings
from searchers.settings import SearcherSettings

# A searcher belongs here if with more budget it first asks for what it asked for with less
# (tests/searchers/test_extending.py). One whose steps follow a schedule over the whole search does not.
BY_ASKS = (RandomSettings, LocalSettings, RegularisedEvolutionSettings, ModelBasedSettings)
BY_GENERATIONS = (EvolutionSettings, NsgaSettings)


def with_budget(settings: SearcherSettings, budget: int, field: str = "budget") -> SearcherSettings:
    """The same searcher with a budget of so many candidates in all, more than it had. Raises `UserError`
    naming `field` for a budget that it cannot have, and ``searcher`` for one that cannot be extended."""
    if isinstance(settings, BY_ASKS):
        if budget <= settings.budget:
            raise UserError(field, budget, f"more than the {settings.budget:,} that it had")
        return settings.model_copy(update={"budget": budget})
    if isinstance(settings, BY_GENERATIONS):
        size = settings.population
        if budget % size or budget <= size * settings.generations:
            least = size * (settings.generations + 1)
            fix = "It goes by whole generations."
            raise UserError(field, budget, f"a multiple of the population ({size:,}), from {least:,} on", fix)
        return settings.model_copy(update={"generations": budget // size})
    kinds = [str(one.model_fields["kind"].default) for one in (*BY_ASKS, *BY_GENERATIONS)]
    fix = "There is nothing more that it could ask for, or it would have asked otherwise from the start."
    raise UserError("searcher", settings.kind, f"one that can be extended: {', '.join(kinds)}", fix)
