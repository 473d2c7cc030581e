"""The rules of the house, read from the source: what each floor imports, and where randomness comes from."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("networks", "searchers", "trainers", "cluster")
SERVICES = ("ray", "mlflow", "boto3")

# What a floor may import besides the standard library and itself. The lower three run on a box that has
# only torch and the libraries named here.
ALLOWED = {
    "networks": {"torch", "networkx", "pydantic", "torchdeq"},
    "searchers": {"networks", "numpy", "scipy", "torch", "pydantic"},
    # nats_bench is optional: trainers/nats_bench_file.py guards it.
    "trainers": {
        "networks",
        "torch",
        "sklearn",
        "numpy",
        "scipy",
        "pydantic",
        "PIL",
        "safetensors",
        "nats_bench",
    },
}
MODULES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST) -> Iterator[str]:
    """Top-level names of everything imported absolutely, also by a constant in a call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).split(".")[-1]
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.args[0].value.split(".")[0]


def forbidden(floor: str, tree: ast.AST) -> set[str]:
    """What a module of this floor imports and may not."""
    return {
        name
        for name in imported(tree)
        if name not in sys.stdlib_module_names and name != floor and name not in ALLOWED[floor]
    }


def test_the_packages_are_found() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(FLOORS)


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.relative_to(ROOT).parts[0] in ALLOWED], ids=name_of
)
def test_imports_run_downwards(path: Path) -> None:
    assert not forbidden(path.relative_to(ROOT).parts[0], ast.parse(path.read_text()))


@pytest.mark.parametrize(
    ("floor", "source", "found"),
    [
        ("networks", "import searchers.grid", {"searchers"}),
        ("networks", "from trainers.data import load", {"trainers"}),
        ("searchers", "def f():\n    import trainers", {"trainers"}),
        ("searchers", "import mlflow.client as m", {"mlflow"}),
        ("trainers", "from searchers import halving", {"searchers"}),
        ("trainers", "import importlib\nimportlib.import_module('ray.tune')", {"ray"}),
        ("trainers", "import boto3, cluster", {"boto3", "cluster"}),
        (
            "trainers",
            "import json, torch.nn\nfrom networks.network import Network\nfrom . import data",
            set(),
        ),
    ],
)
def test_the_import_rule_sees(floor: str, source: str, found: set[str]) -> None:
    assert forbidden(floor, ast.parse(source)) == found


# Running without the services ---------------------------------------------------------------------

BLOCKER = """
import importlib, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked by the test")
sys.meta_path.insert(0, Blocker())
for name in NAMES:
    importlib.import_module(name)
    print(name)
"""


def import_without(blocked: tuple[str, ...], names: list[str]) -> subprocess.CompletedProcess[str]:
    """Import the modules in a process in which `blocked` and all below cannot be imported."""
    program = f"BLOCKED, NAMES = {blocked!r}, {names!r}\n{BLOCKER}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=environment
    )


def test_the_lower_floors_need_no_service() -> None:
    names = [name_of(path) for path in MODULES if path.relative_to(ROOT).parts[0] in ALLOWED]
    run = import_without((*SERVICES, "cluster"), names)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == names


def test_the_command_line_needs_no_ray() -> None:
    run = import_without(("ray",), ["cluster.cli"])
    assert run.returncode == 0, run.stderr


def test_the_blocker_blocks() -> None:
    run = import_without(("networkx",), ["networks.generators"])
    assert run.returncode != 0
    assert "networkx is blocked by the test" in run.stderr


# No global randomness -----------------------------------------------------------------------------

SEEDING = {"manual_seed", "manual_seed_all", "seed", "seed_all", "set_rng_state", "fork_rng"}
DRAWING = {  # torch functions that draw from the global state unless they are given a generator
    "rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson",
    "rand_like", "randn_like", "randint_like",
}  # fmt: skip
# The same as methods of a tensor; a trailing underscore and no other meaning in torch.
FILLING = {
    "normal_", "uniform_", "bernoulli_", "random_", "exponential_", "geometric_", "cauchy_", "log_normal_",
    "xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "trunc_normal_",
    "orthogonal_",
}  # fmt: skip
DROPPING = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
DROPPING |= {"Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"}
GIVEN = {"numpy.random.Generator", "numpy.random.SeedSequence", "numpy.random.PCG64", "numpy.random.Philox"}
SEEDED = {"random.Random", "numpy.random.default_rng"}  # with a seed


def aliases(tree: ast.AST) -> dict[str, str]:
    """Local name -> dotted name of what was imported under it."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                head = alias.name.split(".")[0]
                names[alias.asname or head] = alias.name if alias.asname else head
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def global_draws(tree: ast.AST) -> list[str]:
    """Calls that read or set a global random state, as far as the source shows it."""
    known, found = aliases(tree), []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        written = ast.unparse(node.func)
        head, _, tail = written.partition(".")
        name = f"{known[head]}.{tail}".rstrip(".") if head in known else written
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if uses_global_state(name, known_head=head in known, arguments=len(node.args), keywords=keywords):
            found.append(f"line {node.lineno}: {written}")
    return found


def uses_global_state(
    name: str, *, known_head: bool, arguments: int, keywords: dict[str | None, ast.expr]
) -> bool:
    generator = keywords.get("generator")
    given = generator is not None and ast.unparse(generator) != "None"
    package, last = name.split(".")[0], name.split(".")[-1]
    if name in SEEDED:
        return arguments == 0 and not keywords
    if known_head and (package == "random" or name.startswith("numpy.random.")):
        return name not in GIVEN
    if known_head and package == "torch":
        if last in DROPPING:
            return True
        if last in SEEDING:
            return "Generator" not in name
        if last in ("DataLoader", "RandomSampler", "random_split"):
            shuffled = (
                last != "DataLoader" or ast.unparse(keywords.get("shuffle", ast.Constant(False))) != "False"
            )
            return shuffled and not given
        if last in DRAWING:
            return not given
    return last in FILLING and not given


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_global_randomness(path: Path) -> None:
    assert not global_draws(ast.parse(path.read_text()))


@pytest.mark.parametrize(
    "call",
    [
        "torch.manual_seed(0)",
        "torch.cuda.manual_seed_all(0)",
        "torch.random.fork_rng()",
        "torch.rand(3)",
        "torch.randn(3, generator=None)",
        "torch.randperm(9)",
        "torch.rand_like(x)",
        "draw(3)",
        "weight.normal_(0, 1)",
        "nn.init.kaiming_normal_(weight)",
        "nn.Dropout(0.5)",
        "F.dropout(x)",
        "DataLoader(x, shuffle=True)",
        "random.random()",
        "random.shuffle(x)",
        "random.seed(3)",
        "random.Random()",
        "choice(x)",
        "np.random.rand(3)",
        "np.random.seed(3)",
        "np.random.default_rng()",
        "numpy.random.permutation(3)",
    ],
)
def test_the_randomness_rule_sees(call: str) -> None:
    assert global_draws(ast.parse(f"{HEADER}\n{call}"))


@pytest.mark.parametrize(
    "call",
    [
        "torch.rand(3, generator=g)",
        "torch.Generator().manual_seed(3)",
        "weight.normal_(0, 1, generator=g)",
        "DataLoader(x)",
        "DataLoader(x, shuffle=True, generator=g)",
        "random.Random(3)",
        "rng.random()",
        "rng.shuffle(x)",
        "np.random.default_rng(3)",
        "np.random.Generator(np.random.PCG64(3))",
        "torch.zeros(3).bernoulli_(0.5, generator=g)",
    ],
)
def test_the_randomness_rule_allows(call: str) -> None:
    assert not global_draws(ast.parse(f"{HEADER}\n{call}"))


HEADER = """
import random, numpy, torch
import numpy as np
from random import choice
from torch import nn, rand as draw
from torch.nn import functional as F
from torch.utils.data import DataLoader
"""
