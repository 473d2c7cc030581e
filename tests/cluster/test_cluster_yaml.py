"""The cluster file is one that Ray's launcher accepts."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.recipe import load_recipe

FILE = Path(__file__).parents[2] / "ray_cluster.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def _filled(config: dict[str, Any]) -> dict[str, Any]:
    """With the one key that the launcher itself adds before it checks."""
    return {"cluster_synced_files": [], **config}


def test_rays_schema_accepts_it(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import validate_config

    validate_config(_filled(config))


def test_rays_schema_refuses_a_misspelt_key(config: dict[str, Any]) -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(ValidationError):
        validate_config({**_filled(config), "idle_timeout_minuts": 5})


def test_it_is_closed_to_strangers(config: dict[str, Any]) -> None:
    starts = [
        line
        for key in ("head", "worker")
        for line in config[f"{key}_start_ray_commands"]
        if "ray start" in line
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_every_node_mounts_the_folder_that_the_usage_names(config: dict[str, Any]) -> None:
    mounts = [line for line in config["setup_commands"] if "mount -t nfs4" in line]
    assert len(mounts) == 1 and mounts[0].split("mount -t nfs4")[1].split()[3] == "/shared"
    usage = [line.lstrip("# ") for line in FILE.read_text().splitlines() if line.startswith("#")]
    (search,) = re.findall(r"weft (search .*?)'", " ".join(usage).replace("\\ ", ""))
    words = search.split()
    assert (FILE.parent / words[1]).is_file()
    changes = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    recipe = load_recipe(str(FILE.parent / words[1]), changes)
    assert recipe.storage == Path("/shared/runs")
    assert recipe.data.paths[0].is_relative_to("/shared")
    worker = config["available_node_types"]["gpu_worker"]["resources"]
    assert recipe.resources.gpus <= worker["GPU"] and recipe.resources.cpus <= worker["CPU"]


def test_gpu_workers_come_and_go_and_the_head_has_none(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"]["GPU"] == 0
    worker = types["gpu_worker"]
    assert worker["resources"]["GPU"] >= 1
    assert worker["min_workers"] < worker["max_workers"]
