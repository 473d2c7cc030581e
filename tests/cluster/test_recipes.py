"""The recipes that come with weft."""

from pathlib import Path

import pytest

from cluster.recipe import load_recipe
from networks.architecture import Shape

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_is_found_by_name_and_its_first_candidate_can_be_built(path: Path) -> None:
    recipe = load_recipe(path.stem)
    assert recipe == load_recipe(str(path))
    image = getattr(recipe.space, "image", None) or Shape(3, 32, 32)
    space = recipe.space.build(image, getattr(recipe.space, "classes", None) or 10)
    assert space.size >= 5
    assert space.decode(next(space.enumerate())).complexity().params > 0


def test_the_quickstart_has_twelve_candidates_of_all_three_generators() -> None:
    recipe = load_recipe("quickstart")
    space = recipe.space.build(Shape(1, 8, 8), 10)
    names = [space.names(genes) for genes in space.enumerate()]
    assert len(names) >= 12
    assert {name["generator"] for name in names} == {"ER", "BA", "WS"}
    assert recipe.stopping.kind == "halving"


def test_the_digest_says_what_decides_the_results() -> None:
    recipe = load_recipe("quickstart")
    for same in ("storage=elsewhere", "resources.workers=2", "retries=1", "tracking.uri=http://127.0.0.1:1"):
        assert load_recipe("quickstart", [same]).digest == recipe.digest
    for other in ("seed=1", "training.lr=0.2", "space.channels=9", "data.limit=300", "stopping.eta=2"):
        assert load_recipe("quickstart", [other]).digest != recipe.digest
    moved = [
        load_recipe("ws_probability_cifar10", [f"data.path={path}"]).digest for path in ("a.npz", "b.npz")
    ]
    assert moved[0] == moved[1]
