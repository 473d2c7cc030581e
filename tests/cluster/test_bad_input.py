"""Every mistake of a user gets a message with file, field, value, what is allowed and the nearest spelling;
exit status 2; and nothing is written."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from PIL import Image

from tests.cluster.commands import private_environment, run_weft, tree, weft, write_recipe
from tests.cluster.searches import SMALL

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """Runs a command in `tmp_path`, asserts that it is refused and writes nothing, and gives what it said."""

    def run(*arguments: str) -> str:
        before = tree(tmp_path)
        ended = weft(*arguments, cwd=tmp_path)
        assert ended.code == 2, ended.err
        assert re.fullmatch(r"((starting|joining) Ray.*\n)?", ended.out)
        assert "Traceback" not in ended.err
        assert tree(tmp_path) == before
        return ended.err

    return run


def sets(changes: Sequence[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


class Case(NamedTuple):
    """A `--set`, and what the message must hold: the field, the value, what is allowed, the mend."""

    change: str
    field: str
    value: str
    allowed: str
    fix: str = ""


CASES = [
    # Unknown keys, wherever they stand.
    Case("nmae=x", "nmae", "'x'", "metric, name, resources", "Did you mean 'name'?"),
    Case("epochs=3", "epochs", "3", "these keys: allow_mixed, data,", "Did you mean 'training.epochs'?"),
    Case("training.epoch=3", "training.epoch", "3", "batch_size", "Did you mean 'epochs'?"),
    Case("data.augment.flop=true", "data.augment.flop", "True", "crop, cutout", "Did you mean 'flip'?"),
    Case("stopping.gracee=1", "stopping.gracee", "1", "these keys: eta, grace, kind.", "mean 'grace'?"),
    Case("stopping.kind=none", "stopping.eta", "2", "these keys: kind."),
    Case("space.generators.0.q=1", "space.generators.0.q", "1", "these keys: generator, k, p."),
    # Wrong types.
    Case("training.epochs=many", "training.epochs", "'many'", "a whole number (1 or more)."),
    Case("training.lr=[1]", "training.lr", "[1]", "a number (above 0)."),
    Case("space.nodes=2.5", "space.nodes", "2.5", "a whole number (2 or more)."),
    Case("space.seeds=[1, x]", "space.seeds.1", "'x'", "a whole number."),
    Case("space.image=[1, 8, x]", "space.image.2", "'x'", "a whole number."),
    Case("space.image=[1, 8]", "space.image", "[1, 8]", "a list of 3: c, h, w or null."),
    Case("space.generators=[WS]", "space.generators.0", "'WS'", "a section."),
    Case("space.generators=papr", "space.generators", "'papr'", "paper or a list", "mean 'paper'?"),
    Case("space=5", "space", "5", "a section with kind: randwire, listed, topology, networks."),
    Case("data.path=[1]", "data.path.0", "1", "a path."),
    Case("stopping=halving", "stopping", "'halving'", "none, halving, asha.", "mean {kind: halving}?"),
    Case("name=", "name", "None", "up to 80 letters"),
    Case("name=a/b", "name", "'a/b'", "up to 80 letters, digits and _ . -"),
    # Values out of range.
    Case("training.lr=0", "training.lr", "0", "a number (above 0)."),
    Case("training.batch_size=1", "training.batch_size", "1", "a whole number (2 or more)."),
    Case("space.dropout=1", "space.dropout", "1", "a number (0 or more, below 1)."),
    Case("space.seeds=0", "space.seeds", "0", "a whole number (1 or more) or a list"),
    Case("space.seeds=[1, 1]", "space.seeds", "[1, 1]", "each seed once."),
    Case("stopping.eta=1", "stopping.eta", "1", "a whole number (2 or more)."),
    Case("stopping.grace=9", "stopping.grace", "9", "1 to training.epochs (4)."),
    Case("resources.max_workers=3", "resources.max_workers", "3", "nothing in a grid."),
    Case("training.warmup_epochs=9", "training.warmup_epochs", "9.0", "less than epochs (4)."),
    Case("resources.workers=0", "resources.workers", "0", "a whole number (1 or more) or null."),
    Case("version=2", "version", "2", "allowed: 1."),
    # Graphs.
    Case("space.generators.0.k=3", "space.generators.0.k", "3", "a whole number (even, 2 or more)."),
    Case("space.generators.0.k=[2, 5]", "space.generators.0.k", "5", "a whole number (even, 2 or more)."),
    Case("space.generators.0.k=4", "space.generators.0.k", "4", "even numbers from 2 to 3"),
    Case("space.generators.0.k=[2, 8]", "space.generators.0.k", "8", "even numbers from 2 to 3"),
    Case("space.generators.0.p=1.5", "space.generators.0.p", "1.5", "a number from 0 to 1."),
    Case("space.generators.0.p=[0, -0.1]", "space.generators.0.p", "-0.1", "a number from 0 to 1."),
    Case("space.generators.1.m=4", "space.generators.1.m", "4", "1 to 3 (fewer than the 4 nodes)."),
    Case("space.generators.1.m=[]", "space.generators.1.m", "[]", "at least one value."),
    Case("space.generators.1.m=[1, 1]", "space.generators.1", "'BA(1)'", "each setting once."),
    Case("space.generators=[]", "space.generators", "[]", "a list (at least one)"),
    # Unknown names.
    Case("space.generators.0.generator=WSS", "space.generators.0.generator", "'WSS'", "ER, BA, WS.", "'WS'?"),
    Case("space.generators.0={k: 2}", "space.generators.0.generator", "None", "ER, BA, WS."),
    Case("space.regime=smal", "space.regime", "'smal'", "small, regular, cifar.", "Did you mean 'small'?"),
    Case(
        "space.kind=rand",
        "space.kind",
        "'rand'",
        "randwire, listed, topology, networks.",
        "Did you mean 'randwire'?",
    ),
    Case(
        "space.operation=triplet_sep_conv_5x5",
        "space.operation",
        "'triplet_sep_conv_5x5'",
        "triplet_conv_3x3",
        "Did you mean 'triplet_sep_conv_3x3'?",
    ),
    Case("data.name=digts", "data.name", "'digts'", "digits, cifar10", "Did you mean 'digits'?"),
    Case("stopping.kind=halfing", "stopping.kind", "'halfing'", "none, halving, asha.", "mean 'halving'?"),
    Case("stopping={eta: 2}", "stopping.kind", "None", "none, halving, asha."),
    Case("metric=loss", "metric", "'loss'", "validation_accuracy."),
    # Data.
    Case("data={name: npz}", "data.path", "None", "a path, for npz."),
    Case("data={name: npz, path: no.npz}", "data.path", "'no.npz'", "an npz file.", "There is nothing"),
    Case("data={name: image_folder, path: none.d}", "data.path", "'none.d'", "a folder.", "There is nothing"),
    Case("data.image_size=8", "data.image_size", "8", "only for jpeg_npz, image_folder.", "Leave it out."),
    Case("data.validation=0", "data.validation", "0", "at least one of the training images."),
    Case("data.validation=1.5", "data.validation", "1.5", "a number (0 or more, below 1)"),
    Case("training.batch_size=1000", "training.batch_size", "1000", "1 to 240, the number of training"),
    Case("space.classes=3", "space.classes", "3", "10, as the data has"),
    Case("data.name=nowhere:images", "data.name", "'nowhere:images'", "a module that can be imported"),
    # Where it runs and what it writes to.
    Case("resources.gpus=1000", "resources.gpus", "1000", ""),
    Case(
        "training.precision=mixed", "training.precision", "'mixed'", "auto or float32 without resources.gpus"
    ),
    Case("stopping.kind=asha", "stopping.kind", "'asha'", "none or halving with --local."),
    Case(
        "storage=small.yaml/runs", "storage", "'small.yaml/runs'", "a folder that can be written.", "a file"
    ),
    Case("tracking.uri=mlruns", "tracking.uri", "'mlruns'", "sqlite:///FILE", "use sqlite:///mlruns.db."),
    Case("tracking.uri=htp://x", "tracking.uri", "'htp://x'", "http(s)://HOST:PORT", "Did you mean 'http'?"),
    Case(
        "tracking.uri=http://127.0.0.1:9",
        "tracking.uri",
        "'http://127.0.0.1:9'",
        "http(s)://HOST:PORT",
        "MLflow cannot be reached",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.change)
def test_a_value_that_cannot_be_used(tmp_path: Path, refused: Refused, case: Case) -> None:
    write_recipe(tmp_path)
    said = refused("search", "small.yaml", "--local", *sets([case.change]))
    line = next(line for line in said.splitlines() if f": {case.field}: " in line)
    assert line.startswith("weft: small.yaml")
    for part in (case.value, "cannot be used; allowed: ", case.allowed, case.fix):
        assert part in line
    given, field = case.change.partition("=")[0] + ".", case.field + "."
    same_place = field.startswith(given) or given.startswith(field)
    assert (f"with --set {case.change}: " in line) == same_place


def test_all_mistakes_of_a_recipe_are_told_together(tmp_path: Path, refused: Refused) -> None:
    recipe = {
        **SMALL,
        "nmae": "x",
        "space": {
            **SMALL["space"],  # type: ignore[dict-item]
            "generators": [
                {"generator": "WS", "k": [3, 4], "p": 2},
                {"generator": "XX"},
                {"generator": "BA", "m": 1},
            ],
        },
        "training": {"epochs": 0, "lr": "fast"},
        "data": {"name": "digts"},
    }
    (tmp_path / "many.yaml").write_text(yaml.safe_dump(recipe))
    said = refused("search", "many.yaml").splitlines()
    assert all(line.startswith("weft: many.yaml: ") for line in said)
    assert sorted(line.split(": ")[2] for line in said) == [
        "data.name", "nmae", "space.generators.0.k", "space.generators.0.p", "space.generators.1.generator",
        "training.epochs", "training.lr",
    ]  # fmt: skip


def test_what_only_shows_at_the_start_is_told_together(tmp_path: Path, refused: Refused) -> None:
    write_recipe(tmp_path)
    changes = sets(["stopping.kind=asha", "storage=small.yaml/x", "tracking.uri=mlruns"])
    said = refused("search", "small.yaml", "--local", *changes).splitlines()
    assert [line.split(": ")[2] for line in said] == ["stopping.kind", "storage", "tracking.uri"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version: 1\nname: x\nspace: [1\nseed: 2\n", ["line 4, column 5", "'seed: 2'", "',' or ']'"]),
        ("version: 1\nname: x\nname: y\n", ["line 3, column 1", "the key 'name' stands twice"]),
        ("version: 1\nname: !!python/object/apply:os.mkdir [pwned]\n", ["line 2, column 7", "python/object"]),
        ("version: 1\n  name: x\n", ["line 2, column 7"]),
        ("name: *other\n", ["line 1, column 7", "undefined alias"]),
        ("- a\n", ["['a'] cannot be used", "a mapping: version, name, space"]),
        ("", ["None cannot be used", "a mapping: version, name, space"]),
        ("version: 1\n", ["name: None", "It must be given."]),
        ("name: caf\udce9\n", ["YAML in UTF-8", "Byte 9"]),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, refused: Refused, text: str, words: list[str]) -> None:
    (tmp_path / "bad.yaml").write_bytes(text.encode(errors="surrogateescape"))
    said = refused("search", "bad.yaml")
    assert said.startswith("weft: bad.yaml: ")
    for word in words:
        assert word.lower() in said.lower()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("training.epochs", "a.b=value, such as training.epochs=3"),
        ("training.=3", "a.b=value, such as training.epochs=3"),
        ("training.epochs=[1", "a value in YAML"),
        ("training.epochs=!!python/object/apply:os.mkdir [pwned]", "python/object"),
        ("training.epochs.x=1", "a key of a section; training.epochs is 4"),
        ("space.generators.7.m=1", "0 to 1 for space.generators"),
    ],
)
def test_a_change_that_cannot_be_made(tmp_path: Path, refused: Refused, change: str, words: str) -> None:
    write_recipe(tmp_path)
    said = refused("search", "small.yaml", "--set", change)
    assert f"--set: {change!r} cannot be used" in said
    assert words in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "smal.yaml"], ["RECIPE: 'smal.yaml'", "Did you mean 'small.yaml'?"]),
        (["search", "quikstart"], ["RECIPE: 'quikstart'", "Did you mean 'quickstart'?"]),
        (["describe", "nowhere/small.yaml"], ["RECIPE: 'nowhere/small.yaml'", "a file, or one of"]),
        (["search", "small.yaml", "--local", "--address", "auto"], ["--address: 'auto'", "--local"]),
        (["search", "small.yaml", "--address", "atuo"], ["--address: 'atuo'", "Did you mean 'auto'?"]),
        (["search", "small.yaml", "--address", "127.0.0.1:9"], ["'127.0.0.1:9'", "Nothing answers there"]),
        (["search", "small.yaml", "--address", "ray://127.0.0.1:9"], ["'ray://127.0.0.1:9'", "HOST:PORT"]),
        (["search", "small.yaml", "--local", "--resume"], ["--resume: 'small'", "Start it without."]),
        (["show", "quick-001"], ["RUN: 'quick-001'", "none yet"]),
        (["serch", "small.yaml"], ["No such command 'serch'", "search"]),
        (["search", "small.yaml", "--lcoal"], ["No such option: --lcoal", "--local"]),
        (["search"], ["Missing argument 'RECIPE'"]),
        (["ui", "small", "--port", "99999"], ["--port"]),
    ],
)  # fmt: skip
def test_a_command_that_cannot_be_used(
    tmp_path: Path, refused: Refused, arguments: list[str], words: list[str]
) -> None:
    write_recipe(tmp_path)
    said = refused(*arguments)
    for word in words:
        assert word in said


# Image folders ---------------------------------------------------------------------------------------


def write_images(root: Path, classes: tuple[str, ...] = ("cat", "dog"), images: int = 12) -> Path:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for image in range(images):
            colour = (100 * number, 20 * image, 0)
            Image.new("RGB", (8, 8), colour).save(root / name / f"{image:02d}.png")
    return root


@pytest.fixture
def folder_recipe(tmp_path: Path) -> Path:
    write_images(tmp_path / "images")
    data = {"name": "image_folder", "path": "images", "image_size": 8, "workers": 0}
    return write_recipe(tmp_path, data=data, training={"epochs": 4, "batch_size": 4})


def test_an_unreadable_image(tmp_path: Path, folder_recipe: Path, refused: Refused) -> None:
    (tmp_path / "images" / "dog" / "05.png").write_bytes(b"no image")
    said = refused("search", "small.yaml", "--local")
    assert "weft: small.yaml: data.path: 'images/dog/05.png' cannot be used" in said
    assert "an image that Pillow can read" in said


def test_an_empty_class(tmp_path: Path, folder_recipe: Path, refused: Refused) -> None:
    (tmp_path / "images" / "emu").mkdir()
    said = refused("search", "small.yaml", "--local")
    assert "weft: small.yaml: data.path: 'images/emu' cannot be used" in said
    assert "a class with at least one image" in said


def test_no_validation_images(folder_recipe: Path, refused: Refused) -> None:
    said = refused("search", "small.yaml", "--local", "--set", "data.validation=0")
    assert "data.validation: 0 cannot be used" in said
    assert "at least one of the training images" in said


def test_a_folder_with_the_nearest_name(folder_recipe: Path, refused: Refused) -> None:
    said = refused("search", "small.yaml", "--local", "--set", "data.path=imges")
    assert "data.path: 'imges' cannot be used" in said
    assert "Did you mean 'images'?" in said


# In processes of their own, and on Ray ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--local", "--set", "training.epoch=3"], "training.epoch: 3 cannot be used"),
        (["--set", "data={name: npz, path: no.npz}"], "data.path: 'no.npz' cannot be used"),
        (["--set", "resources.gpus=1000"], "resources.gpus: 1000"),
        (["--json", "--set", "space.generators.0.k=3"], "space.generators.0.k: 3 cannot be used"),
    ],
)
def test_the_real_command_refuses(tmp_path: Path, arguments: list[str], words: str) -> None:
    write_recipe(tmp_path)
    before = tree(tmp_path)
    with private_environment() as env:
        ended = run_weft("search", "small.yaml", *arguments, cwd=tmp_path, env=env)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""
    assert tree(tmp_path) == before


@pytest.mark.ray
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("resources.cpus=64", "resources.cpus: 64.0 cannot be used; allowed: at most 2, all that a node"),
        ("resources.gpus=1000", "resources.gpus: 1000"),
    ],
)
def test_more_than_the_cluster_can_ever_have(
    tmp_path: Path, shared_ray: None, refused: Refused, change: str, words: str
) -> None:
    write_recipe(tmp_path)
    said = refused("search", "small.yaml", "--set", change)
    assert said.startswith(f"weft: small.yaml with --set {change}: ")
    assert words in said
