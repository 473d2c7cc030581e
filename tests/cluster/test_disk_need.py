"""What checkpoints will take is said before a search begins, and is what they take."""

import io
import logging
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from rich.console import Console

import cluster.disk_need
from cluster.disk_need import bytes_text, disk_need, files_below, grid_bytes, supernet_bytes, tell_disk_need
from cluster.experiment import prepare
from cluster.grid import Grid
from cluster.preparation import Search
from cluster.s3 import S3Path
from cluster.search_plan import SearchPlan
from networks.architecture import Shape
from networks.network import build_network
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space
from networks.supernet import build_supernet
from tests.cluster.choices import new_search, ready, tiny_recipe, write_table
from tests.cluster.searches import small_recipe

Usage = namedtuple("Usage", "total used free")


def weights_below(folder: Path) -> int:
    return sum(size for path, size in files_below(folder) if path.name.endswith(".safetensors"))


def test_a_supernets_checkpoints_take_what_was_said(tmp_path: Path) -> None:
    config = new_search(tiny_recipe(tmp_path, space={"kind": "small_chain", "channels": 16}))
    trial = ready(config)
    while trial.pool.step < 4:
        trial.step()
    said = disk_need(trial.plan)
    taken = weights_below(config.folder / "supernet")
    # A path of four steps leaves options without momentum; each tensor's name and shape come on top.
    assert 0.8 * said < taken < 1.05 * said


def test_of_a_supernet_all_weights_statistics_and_momentum_count_twice() -> None:
    space = NasBench201Space(NasBench201Settings(channels=4, cells=1), Shape(3, 32, 32), classes=10)
    supernet = build_supernet(space, 0)
    weights = sum(one.numel() for one in supernet.parameters())
    statistics = sum(one.numel() for one in supernet.buffers())
    assert supernet_bytes(space) == 2 * 4 * (2 * weights + statistics)


def test_a_grids_checkpoints_take_what_was_said(undisturbed: Grid, tmp_path: Path) -> None:
    params = [entrant.cost.params for entrant in undisturbed.search.entrants]
    assert disk_need(undisturbed.search) == 2 * 2 * 4 * sum(params)
    assert grid_bytes(params, epochs=1) == 2 * 4 * sum(params)
    # These networks are tiny, so that names and statistics weigh much.
    space = {**undisturbed.search.recipe.space.model_dump(), "channels": 64}
    wide = Search.of(small_recipe(tmp_path, space=space))
    first = wide.entrants[0].cost.params
    network = build_network(wide.space.decode(wide.entrants[0].candidate.genes), 0)
    counted = sum(tensor.numel() for tensor in network.state_dict().values())
    assert first == sum(one.numel() for one in network.parameters())
    assert first < counted < 1.1 * first


def test_what_trains_nothing_needs_nothing(tmp_path: Path) -> None:
    score = {"kind": "computed", "names": ["naswot"], "batch_size": 64}
    assert disk_need(SearchPlan.of(tiny_recipe(tmp_path, supernet=None, score=score))) == 0
    table = write_table(tmp_path / "known.csv", {"known": sum})
    score = {"kind": "table", "path": str(table), "names": ["known"], "image": [1, 8, 8]}
    plan = SearchPlan.of(tiny_recipe(tmp_path, data=None, supernet=None, score=score))
    assert told(plan, tmp_path) == ""


def told(prepared: Search | SearchPlan, folder: Path | S3Path) -> str:
    console = Console(file=io.StringIO(), width=200)
    tell_disk_need(prepared, folder, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("kind", ["grid", "supernet"])
def test_a_full_disk_is_warned_of(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = prepare(small_recipe(tmp_path) if kind == "grid" else tiny_recipe(tmp_path))
    need = disk_need(prepared)
    free = need
    monkeypatch.setattr(cluster.disk_need.shutil, "disk_usage", lambda folder: Usage(10 * need, 0, free))
    line = f"its checkpoints will take about {bytes_text(need)}\n"
    assert told(prepared, tmp_path) == line and not caplog.records
    free = need - 1
    assert told(prepared, tmp_path) == line
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(tmp_path) in record.getMessage() and "weft gc" in record.getMessage()
    caplog.clear()
    assert told(prepared, S3Path("bucket", "runs/x-001")) == line and not caplog.records
    # What a resumed run keeps already needs no more room.
    kept = tmp_path / ("candidates/000000-x" if kind == "grid" else "supernet")
    kept.mkdir(parents=True)
    (kept / "epoch-000001.safetensors").write_bytes(bytes(1))
    assert told(prepared, tmp_path) == line and not caplog.records


def test_the_disk_is_that_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    real = shutil.disk_usage

    def usage(folder: Path) -> object:
        asked.append(folder)
        return real(folder)

    monkeypatch.setattr(cluster.disk_need.shutil, "disk_usage", usage)
    told(prepare(small_recipe(tmp_path)), tmp_path)
    assert asked == [tmp_path]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (999_900, "1 MB"),
     (123_456_789_012, "123 GB"), (2 * 10**12, "2 TB"), (5 * 10**18, "5e+03 PB")],
)  # fmt: skip
def test_bytes_in_words(number: int, text: str) -> None:
    assert bytes_text(number) == text
