"""What the fields of a recipe may hold, in words, read from the models themselves."""

import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

PLAIN = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "null",
    dict: "a section",
}
LIMITS = ("ge", "gt", "le", "lt", "multiple_of", "min_length")


class Spot(NamedTuple):
    """One type that a place in the recipe may have, with its limits (``ge``, ``lt``, ...)."""

    type: Any
    limits: dict[str, Any]

    @property
    def model(self) -> type[BaseModel] | None:
        return self.type if isinstance(self.type, type) and issubclass(self.type, BaseModel) else None

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that a section here may have."""
        return tuple(self.model.model_fields) if self.model else ()

    @property
    def literals(self) -> tuple[str, ...]:
        return tuple(map(str, get_args(self.type))) if get_origin(self.type) is Literal else ()


def find_spots(model: type[BaseModel], path: Sequence[str | int], raw: object) -> list[Spot]:
    """What may stand at `path` of a `model`. `raw` is the data, which says of what kind its sections are."""
    spots = [Spot(model, {})]
    for part in path:
        spots = [inner for spot in _of_kind(spots, raw) for inner in _inside(spot, part)]
        raw = _item(raw, part)
    return _of_kind(spots, raw)


def leaf_paths(model: type[BaseModel]) -> Iterator[str]:
    """``training.epochs`` and all other places of a recipe that hold no section."""
    for name, field in model.model_fields.items():
        inner = [spot.model for spot in _spots(field.annotation, ()) if spot.model]
        if not inner:
            yield name
        for one in inner:
            yield from (f"{name}.{place}" for place in leaf_paths(one))


def tags_of(spots: Iterable[Spot]) -> list[str]:
    """The kinds of section that a place allows."""
    return [
        str(spot.model.model_fields["kind"].default) for spot in spots if "kind" in spot.keys and spot.model
    ]


def spot_words(spots: Sequence[Spot]) -> str:
    """``a whole number (1 or more) or null``."""
    return " or ".join(dict.fromkeys(map(_words, spots))) or "no such key"


def _inside(spot: Spot, part: str | int) -> Iterator[Spot]:
    if spot.model is not None:
        if part in spot.keys:
            field = spot.model.model_fields[str(part)]
            yield from _spots(field.annotation, (*field.metadata, field))
    elif hasattr(spot.type, "_fields") and isinstance(part, int):
        yield from _spots(list(get_type_hints(spot.type).values())[part], ())
    elif get_origin(spot.type) in (list, tuple) and isinstance(part, int):
        arguments = [one for one in get_args(spot.type) if one is not Ellipsis]
        yield from _spots(arguments[min(part, len(arguments) - 1)], ())


def _item(raw: object, part: str | int) -> object:
    if isinstance(raw, dict):
        return raw.get(part)
    return raw[part] if isinstance(raw, list) and isinstance(part, int) and part < len(raw) else None


def _of_kind(spots: list[Spot], raw: object) -> list[Spot]:
    """Of several kinds of section the one that the data names; all of them where it names none of them."""
    given = raw.get("kind") if isinstance(raw, dict) else None
    return [spot for spot in spots if tags_of([spot]) == [given]] or spots


def _spots(annotation: Any, metadata: Iterable[Any]) -> Iterator[Spot]:
    """The members of a union, each with the limits that apply to it."""
    if get_origin(annotation) is Annotated:
        base, *more = get_args(annotation)
        yield from _spots(base, (*metadata, *more))
    elif get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _spots(member, metadata)
    else:
        yield Spot(annotation, _limits(metadata))


def _limits(metadata: Iterable[Any]) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    for one in metadata:
        if isinstance(one, FieldInfo):
            limits |= _limits(one.metadata) | ({"words": one.description} if one.description else {})
        else:
            limits |= {name: getattr(one, name) for name in LIMITS if getattr(one, name, None) is not None}
    return limits


def _words(spot: Spot) -> str:
    if "words" in spot.limits:
        return str(spot.limits["words"])
    if spot.literals:
        return ", ".join(spot.literals)
    if spot.model is not None:
        return f"a section with {', '.join(spot.keys)}"
    if get_origin(spot.type) in (list, tuple):
        return _list_words(spot)
    if hasattr(spot.type, "_fields"):
        return f"a list of {len(spot.type._fields)}: {', '.join(spot.type._fields)}"
    plain = PLAIN.get(get_origin(spot.type) or spot.type, "a value")
    return f"{plain}{_range(spot.limits)}" if spot.type in (int, float) else plain


def _list_words(spot: Spot) -> str:
    arguments = get_args(spot.type)
    if get_origin(spot.type) is list or Ellipsis in arguments:
        least = " (at least one)" if spot.limits.get("min_length") == 1 else ""
        return f"a list{least}, each {spot_words(list(_spots(arguments[0], ())))}"
    return f"a list of {len(arguments)}, each {spot_words(list(_spots(arguments[0], ())))}"


def _range(limits: dict[str, Any]) -> str:
    low, above = limits.get("ge"), limits.get("gt")
    high, below = limits.get("le"), limits.get("lt")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    parts = [
        "even" if limits.get("multiple_of") == 2 else "",
        f"{low} or more" if low is not None else "",
        f"above {above}" if above is not None else "",
        f"at most {high}" if high is not None else "",
        f"below {below}" if below is not None else "",
    ]
    given = ", ".join(part for part in parts if part)
    return f" ({given})" if given else ""
