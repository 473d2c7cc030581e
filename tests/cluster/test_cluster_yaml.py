"""The cluster file, and what docs/cluster.md says beside it: that Ray's launcher and KubeRay take them."""

import json
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from cluster.recipe import load_recipe
from cluster.submit import search_command
from tests.cluster.commands import ROOT

FILE = ROOT / "ray_cluster.yaml"
GUIDE = ROOT / "docs" / "cluster.md"


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def blocks(language: str) -> list[str]:
    """What stands in the page's fences of this language."""
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)


# The file -----------------------------------------------------------------------------------------


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


def test_amazon_knows_what_it_is_asked_for(config: dict[str, Any]) -> None:
    """Each node is a call of RunInstances with its node_config."""
    import boto3
    from botocore.validate import ParamValidator

    client = boto3.client("ec2", "us-east-1", aws_access_key_id="none", aws_secret_access_key="none")
    shape = client.meta.service_model.operation_model("RunInstances").input_shape
    for kind in config["available_node_types"].values():
        call = {"MinCount": 1, "MaxCount": 1, **kind["node_config"]}
        found = ParamValidator().validate(call, shape)
        assert not found.has_errors(), found.generate_report()


def test_it_is_closed_to_strangers(config: dict[str, Any]) -> None:
    (head,) = (line for line in config["head_start_ray_commands"] if "ray start" in line)
    assert "--dashboard-host=127.0.0.1" in head
    assert any("export RAY_AUTH_MODE=token" in line for line in config["setup_commands"])
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_no_secret_stands_in_it(config: dict[str, Any]) -> None:
    """Variables come with a file of the user's own that is copied to where each shell reads it."""
    assert config["file_mounts"]["~/.weft/environment"] == "~/.weft/environment"
    assert any(". ~/.weft/environment" in line for line in config["setup_commands"])
    for word in ("AWS_", "MLFLOW_", "s3://"):
        assert word not in json.dumps(config)


def test_that_a_node_has_died_is_known_soon(config: dict[str, Any]) -> None:
    from ray._raylet import Config

    (head,) = (line for line in config["head_start_ray_commands"] if "ray start" in line)
    (given,) = (word for word in shlex.split(head) if word.startswith("--system-config="))
    settings = json.loads(given.partition("=")[2])
    assert settings == {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 1000,
        "health_check_timeout_ms": 700,
        "health_check_failure_threshold": 5,
    }
    for name in settings:
        assert callable(getattr(Config, name)), "a setting that Ray does not have would be ignored"


def test_all_that_is_installed_is_mounted(config: dict[str, Any]) -> None:
    """And nothing that is not there: the launcher would stop at it."""
    mounted = {target.removeprefix("~/weft/"): source for target, source in config["file_mounts"].items()
               if target.startswith("~/weft/")}  # fmt: skip
    assert all((ROOT / source).exists() and target == source for target, source in mounted.items())
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert packages | {"pyproject.toml", "README.md"} == set(mounted)


def test_gpu_workers_come_and_go_and_the_head_has_none(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    assert "--num-cpus=0 --num-gpus=0" in config["head_start_ray_commands"][-1]
    workers = [kind for name, kind in types.items() if name != config["head_node_type"]]
    for worker in workers:
        assert worker["resources"]["GPU"] >= 1
        assert worker["min_workers"] < worker["max_workers"] <= config["max_workers"]
    spot = [worker for worker in workers if "InstanceMarketOptions" in worker["node_config"]]
    assert [worker["node_config"]["InstanceMarketOptions"] for worker in spot] == [{"MarketType": "spot"}]
    others = [worker for worker in workers if worker not in spot]
    assert all(spot[0]["priority"] > other.get("priority", 0) for other in others)


def test_the_search_that_it_shows_has_room_on_its_workers(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    usage = " ".join(line.lstrip("# ") for line in FILE.read_text().splitlines() if line.startswith("#"))
    (given,) = re.findall(r"cluster/submit\.py -- (.*?) ray exec", usage.replace("\\", ""))
    _, _, _, _, recipe_file, *options = search_command(*_split(given))
    recipe = load_recipe(recipe_file, options[options.index("--set") + 1 :: 2])
    assert str(recipe.storage) == "s3://my-bucket/runs"
    assert recipe.data.paths == (Path.home() / "data",), "where the set-up commands put it"
    worker = config["available_node_types"]["gpu"]["resources"]
    assert recipe.resources.gpus <= worker["GPU"] and recipe.resources.cpus <= worker["CPU"]


def _split(given: str) -> tuple[str, list[str]]:
    name, *options = shlex.split(given)
    return name, options


# The page -----------------------------------------------------------------------------------------


def test_the_launcher_takes_machines_of_ones_own(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    for key in ("max_workers", "available_node_types", "head_node_type"):
        assert f"`{key}`" in GUIDE.read_text()
        del config[key]
    (block,) = [block for block in blocks("yaml") if block.startswith("provider:")]
    prepared = prepare_config({**config, **yaml.safe_load(block)})
    validate_config(prepared)
    (kind,) = prepared["available_node_types"].values()
    assert kind["min_workers"] == kind["max_workers"] == 2


# The fields that KubeRay knows, from the reference of its API, version ray.io/v1.
RAY_JOB = {
    "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint",
    "entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata",
    "rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode", "submitterConfig",
    "submitterPodTemplate", "suspend", "ttlSecondsAfterFinished",
}  # fmt: skip
RAY_CLUSTER = {
    "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions",
    "headGroupSpec", "headServiceAnnotations", "managedBy", "rayVersion", "suspend", "workerGroupSpecs",
}  # fmt: skip
AUTOSCALER = {
    "env", "envFrom", "idleTimeoutSeconds", "image", "imagePullPolicy", "resources", "securityContext",
    "upscalingMode", "version", "volumeMounts",
}  # fmt: skip
HEAD_GROUP = {"enableIngress", "headService", "rayStartParams", "serviceType", "template"}
WORKER_GROUP = {
    "groupName", "idleTimeoutSeconds", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams",
    "replicas", "scaleStrategy", "suspend", "template",
}  # fmt: skip


def test_kuberay_knows_what_the_manifest_says(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = [block for block in blocks("yaml") if "kind: RayJob" in block]
    manifest = yaml.safe_load(block)
    assert (
        set(manifest) == {"apiVersion", "kind", "metadata", "spec"} and manifest["apiVersion"] == "ray.io/v1"
    )
    job, cluster = manifest["spec"], manifest["spec"]["rayClusterSpec"]
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    for given, known in (
        (job, RAY_JOB),
        (cluster, RAY_CLUSTER),
        (cluster["autoscalerOptions"], AUTOSCALER),
        (head, HEAD_GROUP),
        (workers, WORKER_GROUP),
    ):
        assert set(given) <= known
    assert cluster["authOptions"] == {"mode": "token"}
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    assert all(isinstance(value, str) for value in head["rayStartParams"].values())
    for group in (head, workers):
        (container,) = group["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "weft-environment"}}]
        assert all(isinstance(entry["value"], str) for entry in container.get("env", []))
    for name in ("period_ms", "timeout_ms", "failure_threshold"):
        (value,) = (entry["value"] for entry in head["template"]["spec"]["containers"][0]["env"]
                    if entry["name"] == f"RAY_health_check_{name}")  # fmt: skip
        assert f'"health_check_{name}": {value}' in config["head_start_ray_commands"][-1]
    monkeypatch.chdir(ROOT)
    python, _, module, *given = shlex.split(job["entrypoint"])
    assert (python, module) == ("python", "cluster.submit")
    assert str(load_recipe(given[0], given[2::2]).storage) == "s3://my-bucket/runs"


def test_the_image_has_the_ray_of_the_manifest() -> None:
    (dockerfile,) = blocks("dockerfile")
    ((ray_version, major, minor),) = re.findall(r"FROM rayproject/ray:([\d.]+)-py(\d)(\d+)", dockerfile)
    assert f"rayVersion: {ray_version}\n" in GUIDE.read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (needed,) = (one for one in map(Requirement, project["dependencies"]) if one.name == "ray")
    assert ray_version in needed.specifier
    assert f"{major}.{minor}" in SpecifierSet(project["requires-python"])


def test_variables_that_the_page_names_reach_every_shell(config: dict[str, Any], tmp_path: Path) -> None:
    """By the cluster file's own command, also when it is run a second time."""
    (command,) = (line for line in config["setup_commands"] if ".bashrc" in line)
    (tmp_path / ".weft" / "venv" / "bin").mkdir(parents=True)
    (tmp_path / ".weft" / "venv" / "bin" / "activate").touch()
    (example,) = blocks("sh")
    (tmp_path / ".weft" / "environment").write_text(example)
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    for _ in range(2):
        subprocess.run(["bash", "-c", command], env=env, check=True)
    assert len((tmp_path / ".bashrc").read_text().splitlines()) == 1
    shown = subprocess.run(
        ["bash", "-c", ". ~/.bashrc; env"], env=env, check=True, capture_output=True, text=True
    )
    lines = set(shown.stdout.splitlines())
    assert {*example.split(), "RAY_AUTH_MODE=token"} <= lines
