"""Recipe mistakes in words: where, what, what is allowed, and what was probably meant."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from cluster.recipe_fields import Spot, find_spots, leaf_paths, spot_words, tags_of
from cluster.secrets import redacted
from networks.errors import UserError, nearest

Where = tuple[str | int, ...]


class Mistakes(UserError):
    """Several mistakes at once."""

    def __init__(self, mistakes: Sequence[UserError]) -> None:
        self.mistakes = [one for mistake in mistakes for one in single(mistake)]
        Exception.__init__(self, "\n".join(map(str, self.mistakes)))

    def under(self, prefix: str) -> "Mistakes":
        return Mistakes([mistake.under(prefix) for mistake in self.mistakes])

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.mistakes,)


class RecipeError(Mistakes):
    """All mistakes of one recipe file, with those that came by ``--set`` named as such."""

    def __init__(self, path: Path, mistakes: Sequence[UserError], changes: Sequence[str] = ()) -> None:
        super().__init__(mistakes)
        self.path, self.changes = path, tuple(changes)
        lines = (f"{path}{_change_of(mistake.field, changes)}: {mistake}" for mistake in self.mistakes)
        Exception.__init__(self, "\n".join(lines))

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.path, self.mistakes, self.changes)


def single(error: UserError) -> Iterator[UserError]:
    """The mistakes that an error stands for, one by one."""
    yield from error.mistakes if isinstance(error, Mistakes) else (error,)


def together(checks: Iterable[Callable[[], object]]) -> None:
    """Make all checks, then raise what they refused: one `UserError` as it is, several as `Mistakes`."""
    found: list[UserError] = []
    for check in checks:
        try:
            check()
        except UserError as error:
            found.append(error)
    if found:
        raise found[0] if len(found) == 1 else Mistakes(found)


def explain(error: ValidationError, model: type[BaseModel], raw: object) -> list[UserError]:
    """One `UserError` for each field that pydantic refused in `raw`, the data for `model`."""
    mistakes: dict[tuple[str, str], UserError] = {}
    for found in error.errors():
        for mistake in _explain_one(found, model, raw):
            # A union reports one mistake a member; they have the same field and value.
            mistakes.setdefault((mistake.field, repr(mistake.value)), mistake)
    fields = [mistake.field for mistake in mistakes.values()]
    # Of a list and one of its items, the item says more.
    return [one for one in mistakes.values() if not any(f.startswith(one.field + ".") for f in fields)]


def _explain_one(found: Any, model: type[BaseModel], raw: object) -> Iterator[UserError]:
    path, value = _real_path(found["loc"], raw)
    field, kind = ".".join(map(str, path)), found["type"]
    cause = found.get("ctx", {}).get("error")
    if isinstance(cause, UserError):
        yield from (mistake.under(field) if field else mistake for mistake in single(cause))
    elif kind == "extra_forbidden":
        yield _unknown_key(path, found["input"], model, raw)
    elif kind == "missing" and isinstance(found["loc"][-1], str):
        name = str(found["loc"][-1])
        spots = find_spots(model, (*path, name), raw)
        yield UserError(f"{field}.{name}" if field else name, None, spot_words(spots), "It must be given.")
    else:
        spots = find_spots(model, path, raw)
        tags = tags_of(spots)
        why = f"{cause}." if cause is not None else ""
        if kind.startswith("union_tag") and isinstance(value, dict):
            given = value.get("kind")
            yield UserError(f"{field}.kind", given, ", ".join(tags), nearest(given, tags) if given else "")
        elif len(tags) > 1:
            allowed = f"a section with kind: {', '.join(tags)}"
            yield UserError(field, short(value), allowed, _as_kind(value, tags))
        else:
            yield UserError(field, short(value), spot_words(spots), why or _spelling(value, spots))


def _real_path(loc: Sequence[str | int], raw: Any) -> tuple[Where, object]:
    """Pydantic's path without the names of union members that it puts in, and the value there."""
    path: list[str | int] = []
    for part in loc:
        place = isinstance(raw, list) and isinstance(part, int) and part < len(raw)
        if place or (isinstance(raw, dict) and part in raw):
            path.append(part)
            raw = raw[part]
    return tuple(path), raw


def _unknown_key(path: Where, value: object, model: type[BaseModel], raw: object) -> UserError:
    key = str(path[-1])
    spots = find_spots(model, path[:-1], raw)
    known = sorted({name for spot in spots for name in spot.keys})
    fix = nearest(key, known)
    here = ".".join(map(str, path))
    elsewhere = [place for place in leaf_paths(model) if place.split(".")[-1] == key and place != here]
    if elsewhere and not fix.endswith(f"{key!r}?"):
        fix = f"Did you mean {elsewhere[0]!r}?"
    return UserError(here, short(value), f"these keys: {', '.join(known)}", fix)


def _as_kind(value: object, tags: Sequence[str]) -> str:
    return f"Did you mean {{kind: {value}}}?" if value in tags else ""


def _spelling(value: object, spots: Sequence[Spot]) -> str:
    return (
        nearest(value, [word for spot in spots for word in spot.literals]) if isinstance(value, str) else ""
    )


def _change_of(field: str, changes: Sequence[str]) -> str:
    """The last ``--set`` that gave this field or what stands around it."""
    for change in reversed(changes):
        given, _, value = change.partition("=")
        if field == given or field.startswith(given + ".") or given.startswith(field + "."):
            return f" with --set {given}={redacted(value)}"
    return ""


def short(value: object) -> object:
    return value if len(repr(value)) <= 80 else repr(value)[:77] + "..."
