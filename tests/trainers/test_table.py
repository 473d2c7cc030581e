"""Tables as ground truth: the real one, tables of any space, the official file, and what is refused."""

import csv
import importlib.util
import math
import os
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from networks.architecture import Shape
from networks.errors import UserError
from networks.generators import BarabasiAlbert, WattsStrogatz
from networks.randwire import RandWireTemplate
from networks.spaces.chain import SmallChainSettings, SmallChainSpace
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space, cell_string
from networks.spaces.randwire import RandWireSpace
from networks.spaces.space import SearchSpace
from tests.trainers.test_data_files import real
from trainers.nats_bench_file import COLUMNS
from trainers.table import Table

CELLS = NasBench201Space(NasBench201Settings(), Shape(3, 32, 32), classes=10)
CHAIN = SmallChainSpace(SmallChainSettings(), Shape(3, 32, 32), classes=10)
GRAPHS = RandWireSpace(
    RandWireTemplate(nodes=8, channels=8), [WattsStrogatz(k=4, p=0.25), BarabasiAlbert(m=2)], (7, 8)
)


@pytest.fixture(scope="module")
def cells() -> Table:
    return Table.read(real("nasbench201.csv"), CELLS)


def written(path: Path, header: Sequence[str], *rows: Sequence[object]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def refusal(path: Path, space: SearchSpace, columns: Sequence[str] | None = None) -> UserError:
    with pytest.raises(UserError) as caught:
        Table.read(path, space, columns)
    return caught.value


# The real table -------------------------------------------------------------------------------------


def test_the_real_table_holds_every_cell_in_genes_order(cells: Table) -> None:
    assert len(cells) == 15_625
    assert list(cells.genes) == list(CELLS.enumerate())
    assert "index" not in cells.names and "arch" not in cells.names


def test_the_real_optima(cells: Table) -> None:
    """search_quality.md."""
    assert cells.best("c10_test_200") == ((3, 3, 3, 1, 2, 3), 94.3733)
    assert cells.metrics((3, 3, 3, 1, 3, 2))["c10_test_200"] == 94.3733
    assert cells.best("c100_test_200") == ((3, 3, 3, 1, 3, 3), 73.5133)
    assert cells.best("in16_test_200") == ((2, 2, 3, 1, 3, 3), 47.3111)
    assert (cells.column("c10_test_200") == 94.3733).sum() == 2


@pytest.mark.parametrize(("data", "count"), [("c10", 17), ("c100", 23), ("in16", 34)])
def test_the_real_local_optima(cells: Table, data: str, count: int) -> None:
    """search_quality.md: cells that are better than all 24 others that differ in one edge."""
    values = cells.column(f"{data}_test_200").reshape((5,) * 6)
    strict = np.ones_like(values, bool)
    for axis in range(6):
        for turn in range(1, 5):
            strict &= values > np.roll(values, turn, axis)
    assert strict.sum() == count


def test_the_real_costs_are_those_of_the_space(cells: Table) -> None:
    chosen = [cells.genes[i] for i in range(0, len(cells), 97)]
    for genes in chosen:
        cost, metrics = CELLS.cost(genes), cells.metrics(genes)
        assert (metrics["params_c10"], metrics["flops_c10"]) == (cost.params, cost.macs)


def test_empty_cells_are_missing_metrics(cells: Table) -> None:
    column = cells.column("c10_valid_200")
    assert np.isfinite(column).sum() == 1_104
    known = [genes for genes in cells.genes if "c10_valid_200" in cells.metrics(genes)]
    assert len(known) == 1_104
    assert cells.metrics(known[0])["c10_valid_200"] == column[cells.genes.index(known[0])]


MEASURE = """
import sys, time
from pathlib import Path
from networks.architecture import Shape
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space
from trainers.table import Table
space = NasBench201Space(NasBench201Settings(), Shape(3, 32, 32), classes=10)
def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
started = time.process_time()
table = Table.read(sys.argv[1], space)
print(time.process_time() - started, status("VmHWM") - before, len(table))
"""


def test_the_real_table_loads_fast_and_lean() -> None:
    """Under 1 s of CPU time, and under 200 MB at the peak above what the imports, torch among them, hold."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of memory is read from Linux's /proc")
    command = [sys.executable, "-c", MEASURE, str(real("nasbench201.csv"))]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
    assert run.returncode == 0, run.stderr
    seconds, megabytes, cells = run.stdout.split()
    assert int(cells) == 15_625
    assert float(seconds) < 1 and float(megabytes) < 200


# Tables of any space --------------------------------------------------------------------------------


def test_a_table_of_genes(tmp_path: Path) -> None:
    genes = [(2, 1, 0, 0, 0, 0, 0, 1), (0,) * 8]
    path = written(
        tmp_path / "t.csv",
        ["genes", "accuracy", "note"],
        [list(genes[0]), 0.5, "a"],
        [list(genes[1]), "", "b"],
    )
    table = Table.read(path, CHAIN)
    assert table.genes == (genes[1], genes[0]), "in genes order, whatever the file's"
    assert table.names == ("accuracy",), "words are no metric"
    assert table.metrics(genes[0]) == {"accuracy": 0.5} and table.metrics(genes[1]) == {}
    assert math.isnan(table.column("accuracy")[0]) and table.best("accuracy") == (genes[0], 0.5)
    assert genes[0] in table and (1,) * 8 not in table


def test_a_table_with_a_column_for_each_position(tmp_path: Path) -> None:
    """Words as `space.names` gives them; which settings there are depends on the generator."""
    rows = [[GRAPHS.names(genes)[name] for name in GRAPHS.positions] for genes in GRAPHS.enumerate()]
    path = written(
        tmp_path / "t.csv", ["loss", *GRAPHS.positions], *([-i, *row] for i, row in enumerate(rows))
    )
    table = Table.read(path, GRAPHS, ["loss"])
    assert table.genes == tuple(GRAPHS.enumerate())
    assert table.column("loss").tolist() == [0, -1, -2, -3]
    assert table.best("loss", largest=False).genes == table.genes[3]


def test_only_wanted_columns_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", ["genes", "b", "a", "word"], ["[0,0,0,0,0,0,0,0]", 2, 1, "x"])
    assert Table.read(path, CHAIN, ["a"]).metrics((0,) * 8) == {"a": 1.0}
    assert Table.read(path, CHAIN, []).metrics((0,) * 8) == {}


def test_what_a_table_does_not_hold_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", ["genes", "a", "b"], ["[0,0,0,0,0,0,0,0]", 1, ""])
    table = Table.read(path, CHAIN)
    with pytest.raises(UserError, match="one of the 1 candidates"):
        table.metrics((1,) * 8)
    with pytest.raises(UserError, match="8 genes"):
        table.metrics((0,))
    with pytest.raises(UserError, match="allowed: a"):
        table.column("accuracy")


@pytest.mark.parametrize(
    ("header", "row", "field", "words"),
    [
        (["genes", "acc"], ["[0,0,0]", 1], "table, row 2.genes", "8 genes"),
        (["genes", "acc"], ["[0,0,0,0,0,0,0,3]", 1], "table, row 2.genes.7 (block 8)", "0 to 2"),
        (["genes", "acc"], ["0 0 0", 1], "table, row 2.genes", "JSON list"),
        (["genes", "acc"], ["[0,0,0,0,0,0,0,0.0]", 1], "table, row 2.genes", "JSON list"),
        (["genes", "acc"], ["[0,0,0,0,0,0,0,0]", "high"], "table, row 2.acc", "a number"),
        (["genes", "acc"], ["[0,0,0,0,0,0,0,0]"], "table, row 2", "2 cells"),
        (["arch", "acc"], [cell_string((0,) * 6), 1], "table", "NAS-Bench-201"),
        (["block 1", "acc"], ["identity", 1], "table", "It has block 1, acc, and lacks block 2"),
        (CHAIN.positions, ["identity"] * 7 + ["identty"], "table, row 2.block 8", "Did you mean 'identity'?"),
    ],
)
def test_bad_rows_are_named(
    tmp_path: Path, header: Sequence[str], row: list[object], field: str, words: str
) -> None:
    error = refusal(written(tmp_path / "t.csv", header, row), CHAIN, ["acc"] if "acc" in header else None)
    assert error.field == field and words in str(error)


def test_a_candidate_twice_is_refused(tmp_path: Path) -> None:
    one = ["[0,0,0,0,0,0,0,0]", 1]
    error = refusal(written(tmp_path / "t.csv", ["genes", "acc"], one, one), CHAIN)
    assert "Row 2 is of the same one" in str(error) and error.field == "table, row 3"


def test_lacking_columns_are_named_with_what_there_is(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", ["genes", "c10_test_200", "loss"], ["[0,0,0,0,0,0,0,0]", 1, 2])
    error = refusal(path, CHAIN, ["loss", "c10_test200", "c9"])
    assert error.value == ["c10_test200", "c9"] and error.allowed == "c10_test_200, loss"
    assert "Did you mean 'c10_test_200'?" in error.fix


@pytest.mark.parametrize("content", [b"", b"genes,acc\n", b"\xff\xfe\x00"])
def test_files_that_are_no_table(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    assert refusal(path, CHAIN).field == "table"
    assert refusal(tmp_path / "none.csv", CHAIN).allowed == "a file that exists"


# The official file ----------------------------------------------------------------------------------


class FakeApi:
    """Answers as nats_bench's NATStopology does, as far as it is asked."""

    cells = ((0,) * 6, (3, 3, 3, 1, 2, 3))

    def __len__(self) -> int:
        return len(self.cells)

    def arch(self, index: int) -> str:
        return cell_string(self.cells[index])

    def get_more_info(self, index: int, dataset: str, hp: str, is_random: bool) -> dict[str, float]:
        assert not is_random, "one seed drawn from python's global random numbers"
        where = {"cifar10-valid": 1, "cifar10": 2, "cifar100": 3, "ImageNet16-120": 4}[dataset]
        value = 10_000 * index + 1_000 * where + int(hp)
        # CIFAR-10 with all training images has no validation part, and there is none to ask of.
        parts = {"test-accuracy": value + 0.5} | ({} if dataset == "cifar10" else {"valid-accuracy": value})
        return {key: float(number) for key, number in parts.items()}


def test_the_official_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("nats_bench")
    opened: list[tuple[object, ...]] = []

    def create(path: str, space: str, fast_mode: bool, verbose: bool) -> FakeApi:
        opened.append((path, space, fast_mode, verbose))
        return FakeApi()

    module.create = create
    monkeypatch.setitem(sys.modules, "nats_bench", module)
    file, folder = tmp_path / "NATS-tss.pickle.pbz2", tmp_path / "NATS-tss-simple"
    file.write_bytes(b"")
    folder.mkdir()
    table = Table.read(folder, CELLS)
    assert table.names == COLUMNS and table.genes == FakeApi.cells
    best = table.metrics(FakeApi.cells[1])
    assert best["c10_valid_12"] == 11_012 and best["c10_test_200"] == 12_200.5
    assert best["c100_valid_200"] == 13_200 and best["in16_test_12"] == 14_012.5
    assert Table.read(file, CELLS, ["c10_test_12"]).metrics(FakeApi.cells[0]) == {"c10_test_12": 2_012.5}
    assert opened == [(str(folder), "tss", True, False), (str(file), "tss", False, False)]
    assert "Did you mean 'c10_test_200'?" in str(refusal(file, CELLS, ["c10_test_20"]))
    assert "NAS-Bench-201" in str(refusal(file, CHAIN))


def test_the_official_file_without_the_package(tmp_path: Path) -> None:
    if importlib.util.find_spec("nats_bench"):
        pytest.skip("nats_bench is installed")
    path = tmp_path / "NATS-tss.pickle.pbz2"
    path.write_bytes(b"")
    assert "Install nats_bench" in str(refusal(path, CELLS))
