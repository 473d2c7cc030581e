"""From a recipe's `data:` section to a data set."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from networks.errors import UserError, nearest
from trainers.data.cifar import read_cifar
from trainers.data.data import Data
from trainers.data.digits import read_digits
from trainers.data.image_folder import FolderData
from trainers.data.jpeg_npz import read_jpeg_npz
from trainers.data.npz import read_npz
from trainers.data.settings import DataSettings
from trainers.data.tensors import Source, TensorData
from trainers.data.user import read_user


class Request(NamedTuple):
    settings: DataSettings
    field: str


class Kind(NamedTuple):
    """How a set is read, and which settings it must have and may have."""

    read: Callable[[Request], Source | Data]
    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()


# Settings that only some sets use; anywhere else they would do nothing.
SPECIAL = ("path", "test_path", "image_size", "center_crop", "workers", "augment.resized_crop")

SETS: Mapping[str, Kind] = {
    "digits": Kind(lambda request: read_digits()),
    "cifar10": Kind(lambda request: read_cifar(request.settings), may=("path",)),
    "cifar100": Kind(lambda request: read_cifar(request.settings), may=("path",)),
    "npz": Kind(lambda request: read_npz(request.settings), needs=("path",)),
    "jpeg_npz": Kind(
        lambda request: read_jpeg_npz(request.settings),
        needs=("path",),
        may=("test_path", "image_size", "workers"),
    ),
    "image_folder": Kind(
        lambda request: FolderData(request.settings, request.field),
        needs=("path",),
        may=("image_size", "center_crop", "workers", "augment.resized_crop"),
    ),
}
USER = Kind(lambda request: read_user(request.settings), may=SPECIAL)


def open_data(settings: DataSettings, *, field: str = "data") -> Data:
    """The data set that the settings describe, on the CPU.

    `field` is where the settings stand in the recipe. Raises `UserError` for everything that cannot be
    used, and downloads a CIFAR set that is not there yet.
    """
    try:
        kind = check_settings(settings)
        opened = kind.read(Request(settings, field))
        return TensorData(opened, settings) if isinstance(opened, Source) else opened
    except UserError as error:
        raise error.under(field) from error.__cause__


def check_settings(settings: DataSettings) -> Kind:
    """How this set is read. Raises `UserError` for an unknown set and for settings that it needs or does not
    use; looks at no file."""
    if ":" in settings.name:
        return USER
    kind = SETS.get(settings.name)
    if kind is None:
        allowed = f"{', '.join(SETS)}, or module:attribute for a set of your own"
        raise UserError("name", settings.name, allowed, nearest(settings.name, SETS))
    for name in SPECIAL:
        value = settings.augment.resized_crop if "." in name else getattr(settings, name)
        if value in (None, ()):
            if name in kind.needs:
                raise UserError(name, value, f"a path, for {settings.name}")
        elif name not in kind.needs + kind.may:
            users = [known for known, other in SETS.items() if name in other.needs + other.may]
            raise UserError(name, _plain(value), f"only for {', '.join(users)}", "Leave it out.")
    return kind


def _plain(value: object) -> object:
    """Paths as the user wrote them."""
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value if isinstance(value, int | float) else str(value)
