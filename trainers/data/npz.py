"""One npz file with the images as arrays (names and shapes: `trainers.data.arrays`)."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from networks.errors import UserError, nearest
from trainers.data.arrays import Array, file_complaint, source_of_arrays
from trainers.data.settings import DataSettings
from trainers.data.tensors import Source


def read_npz(settings: DataSettings) -> Source:
    """Raises `UserError` for a missing or damaged file, and for arrays that do not fit together."""
    if len(settings.paths) != 1:
        raise UserError("path", [str(path) for path in settings.paths], "one npz file")
    path = settings.paths[0]
    return source_of_arrays(load_arrays(path), file_complaint(path))


def load_arrays(path: Path, field: str = "path") -> Mapping[str, Array]:
    """All arrays of an npz file, by name. Pickled objects are refused."""
    if not path.is_file():
        raise UserError(field, str(path), "an npz file", nearby(path))
    try:
        with np.load(path, allow_pickle=False) as file:
            if isinstance(file, np.ndarray):
                raise ValueError("it is a single array")
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(field, str(path), "an npz file without pickled objects", f"{error}.") from error


def nearby(path: Path) -> str:
    """Why nothing usable is at `path`: of the other kind, no such folder, or the nearest name beside it."""
    if path.exists():
        return f"It is a {'folder' if path.is_dir() else 'file'}."
    if not path.parent.is_dir():
        return f"There is no folder {str(path.parent)!r}."
    return (
        f"There is nothing of this name. {nearest(path.name, sorted(p.name for p in path.parent.iterdir()))}"
    )
