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


class Fields(NamedTuple):
    """What the user calls a table's file and its columns; refusals name them so."""

    file: str = "table"
    columns: str = "columns"


class Found(NamedTuple):
    """What a table holds of a candidate. `reason` says what is missing of it, and is empty else."""

    metrics: dict[str, float]
    reason: str


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
    def read(
        cls,
        path: str | Path,
        space: SearchSpace,
        columns: Sequence[str] | None = None,
        fields: Fields = Fields(),
    ) -> "Table":
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
            raise UserError(fields.file, str(path), "a file that exists")
        if path.suffix != ".csv":
            _is_cell_space(space, path, fields)
            wanted = nats_bench_file.COLUMNS if columns is None else tuple(columns)
            absent = [name for name in wanted if name not in nats_bench_file.COLUMNS]
            if absent:
                raise lacking(absent, nats_bench_file.COLUMNS, fields)
            genes, values = nats_bench_file.read(path, wanted, fields.file)
        else:
            genes, values = _read_csv(path, space, columns, fields)
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

    def find(self, genes: Genes, names: Sequence[str]) -> Found:
        """These metrics of a candidate, as far as they are known. Raises nothing."""
        if genes not in self:
            return Found({}, "the table does not hold it")
        known = self.metrics(genes)
        missing = [name for name in names if name not in known]
        reason = f"the table holds no {', '.join(missing)} of it" if missing else ""
        return Found({name: known[name] for name in names if name in known}, reason)

    def column(self, name: str) -> np.ndarray:
        """One metric of all candidates: float64 (candidates,), in genes order, NaN where it is missing."""
        if name not in self.names:
            raise lacking([name], self.names)
        return self._values[:, self.names.index(name)]

    def best(self, name: str, *, largest: bool = True) -> Best:
        """The candidate with the largest (else smallest) value of a metric."""
        column = self.column(name)
        if np.isnan(column).all():
            raise UserError("column", name, "a metric that some candidate has")
        row = int(np.nanargmax(column) if largest else np.nanargmin(column))
        return Best(self.genes[row], float(column[row]))


def lacking(wanted: Sequence[str], there: Sequence[str], fields: Fields = Fields()) -> UserError:
    """The refusal of a table without these columns."""
    hints = [nearest(name, there) for name in wanted]
    value = wanted[0] if len(wanted) == 1 else list(wanted)
    return UserError(fields.columns, value, ", ".join(there), " ".join(hint for hint in hints if hint))


def _is_cell_space(space: SearchSpace, path: Path, fields: Fields) -> None:
    if not isinstance(space, NasBench201Space):
        fix = "This one is of NAS-Bench-201's cells."
        raise UserError(fields.file, str(path), "a table of this space", fix)


# csv ------------------------------------------------------------------------------------------------


def _read_csv(
    path: Path, space: SearchSpace, wanted: Sequence[str] | None, fields: Fields
) -> tuple[list[Genes], dict[str, list[float]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            header = next(lines, [])
            rows = [row for row in lines if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(fields.file, str(path), "a csv file in UTF-8", str(error)) from error
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise UserError(f"{fields.file}, row {number}", row, f"{len(header)} cells, as in the header")
    if not rows:
        raise UserError(fields.file, str(path), "a header and a row for each candidate")
    texts = dict(zip(header, zip(*rows, strict=True), strict=True))
    keys, genes_of = _key(path, space, texts, fields)
    genes = list(_legal(genes_of, zip(*(texts[key] for key in keys), strict=True), space, fields))
    others = [name for name in header if name not in (*keys, NUMBERING)]
    absent = [name for name in wanted or () if name not in others]
    if absent:
        raise lacking(absent, others, fields)
    chosen = wanted if wanted is not None else [name for name in others if _holds_numbers(texts[name])]
    return genes, {name: _numbers(name, texts[name], fields) for name in chosen}


def _key(
    path: Path, space: SearchSpace, texts: Mapping[str, object], fields: Fields
) -> tuple[tuple[str, ...], Callable[[tuple[str, ...]], Genes]]:
    """The columns that name the candidate, and what makes genes of their texts."""
    if GENES in texts:
        return (GENES,), lambda row: _listed(row[0])
    if CELL in texts:
        _is_cell_space(space, path, fields)
        return (CELL,), lambda row: cell_genes(row[0])
    absent = [name for name in space.positions if name not in texts]
    if not absent:
        return space.positions, lambda row: _worded(row, space)
    allowed = f"a table with a column {GENES!r}, {CELL!r} or one for each of the space's positions"
    hints = " ".join(filter(None, (nearest(name, texts) for name in absent)))
    fix = f"It has {', '.join(texts)}, and lacks {', '.join(absent)}. {hints}"
    raise UserError(fields.file, str(path), allowed, fix.strip())


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
    genes_of: Callable[[tuple[str, ...]], Genes],
    rows: Iterator[tuple[str, ...]],
    space: SearchSpace,
    fields: Fields,
) -> Iterator[Genes]:
    seen: dict[Genes, int] = {}
    for number, row in enumerate(rows, 2):
        where = f"{fields.file}, row {number}"
        try:
            genes = genes_of(row)
            if not space.legal(genes):
                space.check(genes)
        except UserError as error:
            raise error.under(where) from None
        if genes in seen:
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


def _numbers(name: str, texts: Sequence[str], fields: Fields) -> list[float]:
    try:
        return [float(text) if text else math.nan for text in texts]
    except ValueError:
        number = next(i for i, text in enumerate(texts, 2) if text and not _is_number(text))
        field = f"{fields.file}, row {number}.{name}"
        raise UserError(field, texts[number - 2], "a number, or nothing") from None
