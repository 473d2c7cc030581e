"""The official NATS-Bench file of the topology space, read with the optional `nats_bench` package.

The package unpickles the file: give it only a file from where the benchmark's authors publish it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from networks.errors import UserError
from networks.spaces.nasbench201 import cell_genes
from networks.spaces.space import Genes

# Data set and part -> the benchmark's name of the data set, and the key of its `get_more_info`. On CIFAR-10
# validation accuracies are of networks trained on half of the training images, test accuracies of all.
PARTS = {
    "c10_valid": ("cifar10-valid", "valid-accuracy"),
    "c10_test": ("cifar10", "test-accuracy"),
    "c100_valid": ("cifar100", "valid-accuracy"),
    "c100_test": ("cifar100", "test-accuracy"),
    "in16_valid": ("ImageNet16-120", "valid-accuracy"),
    "in16_test": ("ImageNet16-120", "test-accuracy"),
}
EPOCHS = ("12", "200")
COLUMNS = tuple(f"{part}_{epochs}" for part in PARTS for epochs in EPOCHS)


def read(path: Path, wanted: Sequence[str], field: str) -> tuple[list[Genes], dict[str, list[float]]]:
    """Genes of all 15,625 cells, and percent accuracies after the last epoch, the mean over the seeds; of
    `wanted`, which are some of COLUMNS. `field`: what the user calls the file.

    A folder (the `-simple` distribution) is read cell by cell, a file whole, which takes much memory. Both
    take minutes. Raises `UserError` where `nats_bench` is not installed.
    """
    api = _opened(path, field)
    genes = [cell_genes(api.arch(index)) for index in range(len(api))]
    values: dict[str, list[float]] = {name: [] for name in wanted}
    for index in range(len(api)):
        for name in wanted:
            part, _, epochs = name.rpartition("_")
            data, key = PARTS[part]
            found = api.get_more_info(index, data, hp=epochs, is_random=False)
            values[name].append(float(found[key]))
    return genes, values


def _opened(path: Path, field: str) -> Any:
    try:
        import nats_bench  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        fix = "Install nats_bench, or give a csv file."
        raise UserError(field, str(path), "a .csv file, without the package nats_bench", fix) from None
    try:
        return nats_bench.create(str(path), "tss", fast_mode=path.is_dir(), verbose=False)
    except Exception as error:  # the package raises what pickle, bz2 and its own asserts raise
        raise UserError(field, str(path), "NATS-Bench's file of the topology space", str(error)) from error
