"""Recipe mistakes in words: where, what, what is allowed, and what was probably meant."""

import types
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from networks.errors import UserError, nearest


class RecipeError(UserError):
    """All mistakes of one recipe file."""

    def __init__(self, path: Path, mistakes: list[UserError]) -> None:
        self.path, self.mistakes = path, mistakes
        Exception.__init__(self, "\n".join(f"{path}: {mistake}" for mistake in mistakes))

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.path, self.mistakes)


def explain(error: ValidationError, model: type[BaseModel]) -> list[UserError]:
    """One `UserError` for each mistake that pydantic found in data for `model`."""
    mistakes: dict[str, UserError] = {}
    for found in error.errors():
        path = [str(part) for part in found["loc"] if not _is_tag(part)]
        field = ".".join(path)
        cause = found.get("ctx", {}).get("error")
        if isinstance(cause, UserError):
            mistake = cause.under(field) if field else cause
        elif found["type"] == "extra_forbidden":
            known = sorted(_fields_at(model, path[:-1]))
            mistake = UserError(
                field, found["input"], f"these keys: {', '.join(known)}", nearest(path[-1], known)
            )
        elif found["type"] == "missing":
            mistake = UserError(field, None, "a value; it must be given")
        else:
            mistake = UserError(field, _short(found["input"]), _allowed(found), _spelling(found))
        # A union reports one mistake a member; the first says enough.
        mistakes.setdefault(field, mistake)
    return list(mistakes.values())


def _is_tag(part: int | str) -> bool:
    """Union members appear in pydantic's paths; users know nothing of them."""
    return isinstance(part, str) and (
        part in {"none", "halving", "asha", "int", "float", "str", "path"} or "[" in part
    )


def _allowed(found: Any) -> str:
    message = found["msg"]
    expected = found.get("ctx", {}).get("expected") or found.get("ctx", {}).get("expected_tags")
    return str(expected) if expected else message[0].lower() + message[1:]


def _spelling(found: Any) -> str:
    context = found.get("ctx", {})
    expected = context.get("expected") or context.get("expected_tags")
    words = [word.strip(" '\"") for word in str(expected).replace(" or ", ",").split(",")] if expected else []
    given = found["input"].get("kind", "") if isinstance(found["input"], dict) else found["input"]
    return nearest(given, words) if isinstance(given, str) else ""


def _short(value: object) -> object:
    return value if len(repr(value)) <= 80 else repr(value)[:77] + "..."


def _fields_at(model: type[BaseModel], path: list[str]) -> set[str]:
    """The keys that the section at `path` may have (of all members where it is a union)."""
    models = {model}
    for part in path:
        fields = [one.model_fields[part].annotation for one in models if part in one.model_fields]
        models = {inner for annotation in fields for inner in _models_in(annotation)}
    return {name for one in models for name in one.model_fields}


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    if get_origin(annotation) in (Union, types.UnionType, Annotated, list, tuple):
        return {model for part in get_args(annotation) for model in _models_in(part)}
    return {annotation} if isinstance(annotation, type) and issubclass(annotation, BaseModel) else set()
