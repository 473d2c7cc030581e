"""What ends a command without being a fault of the program: the user's mistake, and a search that cannot go
on."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in a recipe, a file or a command line; the command line exits with 2.

    The text names the field, the value, what is allowed and, where one exists, the mend. `field` is a
    dotted path (``space.generators.0.k``); whoever knows more of the path adds it with `under`.
    """

    def __init__(self, field: str, value: object, allowed: str, fix: str = "") -> None:
        self.field, self.value, self.allowed, self.fix = field, value, allowed, fix
        where = f"{field}: " if field else ""
        text = f"{where}{value!r} cannot be used; allowed: {allowed}."
        super().__init__(f"{text} {fix}".rstrip())

    def under(self, prefix: str) -> "UserError":
        """The same mistake, named from one level further out."""
        field = f"{prefix}.{self.field}" if self.field else prefix
        return UserError(field, self.value, self.allowed, self.fix)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        # Exceptions cross process borders by their constructor's arguments.
        return type(self), (self.field, self.value, self.allowed, self.fix)


class CannotGoOn(RuntimeError):
    """A search that ended before its time though nothing was wrong with what the user gave: its processes
    died too often, its machines failed. The text says what happened; what is committed is kept, and a resume
    goes on from it. The command line exits with 1."""


def nearest(word: object, known: Iterable[str]) -> str:
    """``Did you mean 'x'?`` for the nearest known spelling, or an empty string."""
    known = list(known)
    lower = {name.lower(): name for name in known}
    match = difflib.get_close_matches(str(word).lower(), lower, n=1, cutoff=0.5)
    return f"Did you mean {lower[match[0]]!r}?" if match else ""
