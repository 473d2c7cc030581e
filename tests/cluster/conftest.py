"""One Ray for the whole test session, and one undisturbed search to compare with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import cluster.experiment
import cluster.tracker
from cluster.grid import Grid, drive_local
from cluster.recipe import Recipe
from tests.cluster.choices import NoWriter
from tests.cluster.searches import new_grid, small_recipe


@pytest.fixture(autouse=True, scope="session")
def eager_writer() -> Iterator[None]:
    """Tests share the cores with others, so that a writer that leaves them to whoever computes has none. What
    this process starts is the writer as `weft sync` runs it; who watches the real one starts it itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            cluster.tracker, "WRITER", ("-c", "import sys; from cluster.writer import main; sys.exit(main())")
        )
        yield


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return small_recipe(tmp_path / "runs")


@pytest.fixture
def no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches without a writer, which takes longer than tests'."""
    monkeypatch.setattr(cluster.experiment, "WriterProcess", NoWriter)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """The small search, run locally from start to end."""
    grid = new_grid(small_recipe(tmp_path_factory.mktemp("undisturbed") / "runs"))
    drive_local(grid)
    return grid


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[None]:
    """A Ray with two CPUs, started once. Tests that need a cluster of their own are marked slow."""
    ray = pytest.importorskip("ray")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=200 * 2**20,
    )
    yield
    ray.shutdown()
