"""Entries of a recipe that stand for several settings: every combination of the values that they list."""

import itertools
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cluster.recipe_errors import Mistakes, explain
from networks.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


def combined(entry: Mapping[str, Any], model: type[Model]) -> list[Model]:
    """Every combination of one entry's values. All that is wrong with them is told at once."""
    values = {key: value if isinstance(value, list) else [value] for key, value in entry.items()}
    settings: list[Model] = []
    mistakes: dict[str, UserError] = {
        key: UserError(key, [], "at least one value") for key, value in values.items() if not value
    }
    for combination in itertools.product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        try:
            settings.append(model.model_validate(chosen))
        except ValidationError as error:
            mistakes |= {str(mistake): mistake for mistake in explain(error, model, chosen)}
    if mistakes:
        raise Mistakes(list(mistakes.values()))
    return settings
