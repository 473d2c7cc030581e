"""A user's own data set: ``module:attribute``, something to call with the settings."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from networks.errors import UserError, nearest
from trainers.data.arrays import source_of_arrays
from trainers.data.data import Data
from trainers.data.settings import DataSettings
from trainers.data.tensors import Source


def read_user(settings: DataSettings) -> Source | Data:
    """What the user's callable returns: a `Data`, or a mapping of arrays (`source_of_arrays`).

    This is the only place where a recipe's data section makes weft import something. What the callable
    itself raises is passed on.
    """
    found = _find(settings.name)(settings)
    if isinstance(found, Mapping):
        return source_of_arrays(found, lambda allowed, why: UserError("name", settings.name, allowed, why))
    if isinstance(found, Data):
        if not found.sizes["validation"]:
            raise UserError("name", settings.name, "a set with at least one validation image")
        return found
    raise UserError(
        "name",
        settings.name,
        "a function that returns a dict of arrays, or an object with what trainers.data.Data lists",
        f"It returned {type(found).__name__}.{_lacking(found)}",
    )


def _find(name: str) -> Callable[[DataSettings], Any]:
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, SyntaxError) as error:
        raise UserError(
            "name",
            name,
            "module:attribute with a module that can be imported",
            f"{type(error).__name__}: {error}. Is its folder in PYTHONPATH?",
        ) from error
    if not hasattr(module, attribute):
        names = [known for known in vars(module) if not known.startswith("_")]
        raise UserError("name", name, f"an attribute of {module_name}", nearest(attribute, names))
    found = getattr(module, attribute)
    if not callable(found):
        raise UserError("name", name, "something to call", f"{attribute} is {type(found).__name__}.")
    return found


def _lacking(found: object) -> str:
    asked = ("image", "classes", "sizes", "digest", "to", "steps_per_epoch", "train_batch", "batches")
    return f" It lacks {', '.join(name for name in asked if not hasattr(found, name))}."
