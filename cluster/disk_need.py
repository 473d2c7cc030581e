"""How much room the checkpoints of a search will take, known before it begins, and whether it is there."""

import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from rich.console import Console

from cluster.checkpoints import KEPT
from cluster.files import AnyPath
from cluster.preparation import Search
from cluster.search_plan import SearchPlan
from networks.spaces.choices import ChoiceSpace
from networks.supernet import Supernet

log = logging.getLogger(__name__)

FLOAT_BYTES = 4  # weights and momentum are kept in float32, also where training mixes precisions
KEPT_IN = ("candidates", "supernet")  # folders of a run


def tell_disk_need(prepared: Search | SearchPlan, folder: AnyPath, console: Console) -> None:
    """Say what the checkpoints of a run will take, and warn where the disk of its folder has no room for it.
    What a resumed run keeps there already needs no more. Of S3 nobody knows what it has room for."""
    need = disk_need(prepared)
    if not need:
        return
    console.print(f"its checkpoints will take about {bytes_text(need)}")
    if isinstance(folder, Path):
        there = sum(size for name in KEPT_IN for _, size in files_below(folder / name))
        free = shutil.disk_usage(folder).free
        if need - there > free:
            log.warning(
                "checkpoints will take about %s, and the disk of %s has %s: weft gc frees what old runs keep",
                bytes_text(need - there), folder, bytes_text(free),
            )  # fmt: skip


def disk_need(prepared: Search | SearchPlan) -> int:
    """Bytes of the checkpoints that will be kept; about, for a grid."""
    if isinstance(prepared, Search):
        params = (entrant.cost.params for entrant in prepared.entrants)
        return grid_bytes(params, prepared.recipe.training.epochs)
    settings = prepared.recipe.supernet
    return supernet_bytes(prepared.space) if settings is not None and settings.steps else 0


def grid_bytes(params: Iterable[int], epochs: int) -> int:
    """Of candidates with so many parameters each: weights and momentum, in the newest two epochs. A candidate
    that stops early keeps as much. Statistics of batch normalisations, a few percent, are not counted."""
    return min(KEPT, epochs) * 2 * FLOAT_BYTES * sum(params)


def supernet_bytes(space: ChoiceSpace) -> int:
    """Of a space's supernet: weights, statistics and momentum, twice."""
    with torch.device("meta"):
        supernet = Supernet(space)
    weights = sum(parameter.numel() for parameter in supernet.parameters())
    statistics = sum(buffer.numel() for buffer in supernet.buffers() if buffer.is_floating_point())
    return KEPT * FLOAT_BYTES * (2 * weights + statistics)


def files_below(folder: AnyPath) -> Iterator[tuple[AnyPath, int]]:
    """All files at any depth, with their sizes in bytes; none where there is no such folder."""
    if not isinstance(folder, Path):
        yield from folder.files()
        return
    for path in sorted(folder.rglob("*")):
        try:
            if path.is_file() and not path.is_symlink():
                yield path, path.stat().st_size
        except FileNotFoundError:
            continue  # it went meanwhile


def bytes_text(number: int) -> str:
    """``1.2 GB``, in powers of ten."""
    size, unit = float(number), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"
