"""A table of finished evaluations as ground truth: genes -> metrics, read from a file.

With a table in the place of a pool, every searcher runs against real accuracies in milliseconds.
"""

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from networks.errors import UserError, nearest
from networks.spaces.nasbench201 import NasBench201Space, cell_genes
from networks.spaces.space import Genes, SearchSpace
from trainers import nats_bench_file

CELL, GENES = "arch", "genes"  # columns that say which candidate a row is of, beside the names of genes
NUMBERING = "index"  # the benchmark's own numbering of its cells: no metric


class Best(NamedTuple):
    """The first candidate, in genes order, of those with the best value."""

    genes: Genes
    value: float


class Table:
    """Metrics of candidates of one space, in genes order (the order of `space.enumerate()`).

    It need not hold all candidates, nor all metrics of those that it holds: a missing metric is NaN in
    `column` and absent from `metrics`.
    """

    def __init__(
        self, space: SearchSpace, genes: Sequence[Genes], columns: Mapping[str, Sequence[float]]
    ) -> None:
        order = sorted(range(len(genes)), key=genes.__getitem__)
        self.space = space
        self.genes: tuple[Genes, ...] = tuple(genes[i] for i in order)
        self.names = tuple(columns)
        self._row = {one: row for row, one in enumerate(self.genes)}
        self._values = np.empty((len(genes), len(columns)))
        for place, values in enumerate(columns.values()):
            self._values[:, place] = np.asarray(values, np.float64)[order]

    @classmethod
    def read(cls, path: str | Path, space: SearchSpace, columns: Sequence[str] | None = None) -> "Table":
        """The table in a file. `columns`: the metrics wanted; None: all columns of numbers.

        - a `.csv` file, a row a candidate, which is named by a column `arch` (a cell of NAS-Bench-201 as a
          string), or a column `genes` (a JSON list), or a column for each of the space's positions, with
          the chosen value in words, as `space.names` gives it. An empty cell is a missing metric;
        - the official NATS-Bench file or folder of the topology space (trainers/nats_bench_file.py).

        Raises `UserError` for a file that cannot be read, wanted columns that it lacks, genes that the
        space does not have, a candidate that it has twice, and a value that is no number.
        """
        path = Path(path)
        if not path.exists():
            raise UserError("table", str(path), "a file that exists")
        if path.suffix != ".csv":
            _is_cell_space(space, path)
            genes, values = nats_bench_file.read(path, columns)
        else:
            genes, values = _read_csv(path, space, columns)
        return cls(space, genes, values)

    def __len__(self) -> int:
        return len(self.genes)

    def __contains__(self, genes: object) -> bool:
        return genes in self._row

    def metrics(self, genes: Genes) -> dict[str, float]:
        """What is known of a candidate. Raises `UserError` for one that the table does not hold."""
        row = self._row.get(genes)
        if row is None:
            self.space.check(genes)
            raise UserError("genes", genes, f"one of the {len(self)} candidates in the table")
        values = zip(self.names, self._values[row].tolist(), strict=True)
        return {name: value for name, value in values if not math.isnan(value)}

    def column(self, name: str) -> np.ndarray:
        """One metric of all candidates: float64 (candidates,), in genes order, NaN where it is missing."""
        if name not in self.names:
            raise _lacking([name], self.names)
        return self._values[:, self.names.index(name)]

    def best(self, name: str, *, largest: bool = True) -> Best:
        """The candidate with the largest (else smallest) value of a metric."""
        column = self.column(name)
        if np.isnan(column).all():
            raise UserError("column", name, "a metric that some candidate has")
        row = int(np.nanargmax(column) if largest else np.nanargmin(column))
        return Best(self.genes[row], float(column[row]))


def _lacking(wanted: Sequence[str], there: Sequence[str]) -> UserError:
    hints = [nearest(name, there) for name in wanted]
    return UserError("columns", list(wanted), ", ".join(there), " ".join(hint for hint in hints if hint))


def _is_cell_space(space: SearchSpace, path: Path) -> None:
    if not isinstance(space, NasBench201Space):
        raise UserError("table", str(path), "a table of this space", "This one is of NAS-Bench-201's cells.")


# csv ------------------------------------------------------------------------------------------------


def _read_csv(
    path: Path, space: SearchSpace, wanted: Sequence[str] | None
) -> tuple[list[Genes], dict[str, list[float]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            header = next(lines, [])
            rows = [row for row in lines if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError("table", str(path), "a csv file in UTF-8", str(error)) from error
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise UserError(f"table, row {number}", row, f"{len(header)} cells, as in the header")
    if not rows:
        raise UserError("table", str(path), "a header and a row for each candidate")
    texts = dict(zip(header, zip(*rows, strict=True), strict=True))
    keys, genes_of = _key(path, space, texts)
    genes = list(_legal(genes_of, zip(*(texts[key] for key in keys), strict=True), space))
    others = [name for name in header if name not in (*keys, NUMBERING)]
    lacking = [name for name in wanted or () if name not in others]
    if lacking:
        raise _lacking(lacking, others)
    chosen = wanted if wanted is not None else [name for name in others if _holds_numbers(texts[name])]
    return genes, {name: _numbers(name, texts[name]) for name in chosen}


def _key(
    path: Path, space: SearchSpace, texts: Mapping[str, object]
) -> tuple[tuple[str, ...], Callable[[tuple[str, ...]], Genes]]:
    """The columns that name the candidate, and what makes genes of their texts."""
    if GENES in texts:
        return (GENES,), lambda row: _listed(row[0])
    if CELL in texts:
        _is_cell_space(space, path)
        return (CELL,), lambda row: cell_genes(row[0])
    lacking = [name for name in space.positions if name not in texts]
    if not lacking:
        return space.positions, lambda row: _worded(row, space)
    error = _lacking(lacking, tuple(texts))
    fix = f"A row says which candidate it is of in {GENES!r}, in {CELL!r} or in all of the space's positions."
    raise UserError(error.field, error.value, error.allowed, f"{error.fix} {fix}".strip())


def _listed(text: str) -> Genes:
    try:
        genes = json.loads(text)
    except json.JSONDecodeError:
        genes = None
    if not isinstance(genes, list) or any(type(gene) is not int for gene in genes):
        raise UserError("genes", text, "a JSON list of whole numbers")
    return tuple(genes)


def _worded(row: Sequence[str], space: SearchSpace) -> Genes:
    genes: Genes = ()
    for name, word in zip(space.positions, row, strict=True):
        known = [str(choice) for choice in space.choices(genes)]
        if word not in known:
            raise UserError(name, word, ", ".join(known), nearest(word, known))
        genes = (*genes, known.index(word))
    return genes


def _legal(
    genes_of: Callable[[tuple[str, ...]], Genes], rows: Iterator[tuple[str, ...]], space: SearchSpace
) -> Iterator[Genes]:
    seen: dict[Genes, int] = {}
    for number, row in enumerate(rows, 2):
        try:
            genes = genes_of(row)
            if not space.legal(genes):
                space.check(genes)
        except UserError as error:
            raise error.under(f"table, row {number}") from None
        if genes in seen:
            where = f"table, row {number}"
            raise UserError(where, genes, "a candidate once", f"Row {seen[genes]} is of the same one.")
        seen[genes] = number
        yield genes


def _holds_numbers(texts: Sequence[str]) -> bool:
    """Whether the first cell that is not empty is a number."""
    return _is_number(next((text for text in texts if text), ""))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(name: str, texts: Sequence[str]) -> list[float]:
    try:
        return [float(text) if text else math.nan for text in texts]
    except ValueError:
        number = next(i for i, text in enumerate(texts, 2) if text and not _is_number(text))
        raise UserError(f"table, row {number}.{name}", texts[number - 2], "a number, or nothing") from None
