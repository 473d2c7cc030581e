"""Recipes of searches over choices: what is refused, in which words, and what their digest leaves out."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import ValidationError

from cluster.recipe import ListedSection, Recipe, load_recipe, recipe_model
from cluster.recipe_errors import RecipeError, explain
from cluster.search_recipe import SearchRecipe
from networks.architecture import Shape
from networks.errors import UserError
from tests.cluster.choices import CHAIN, TINY, tiny_recipe, write_tiny
from tests.cluster.searches import SMALL

TABLE = {"kind": "table", "path": "known.csv", "names": ["known"]}
UNTRAINED = {"supernet": None, "score": {"kind": "computed", "names": ["naswot", "params"]}}
OF_TABLE = {"supernet": None, "data": None, "score": TABLE}
RANKING = {"table": "truth.csv", "truth": "c10", "scores": ["accuracy"]}


class Case(NamedTuple):
    """Changes of the tiny recipe (None takes a section out), and what the one mistake must say."""

    changes: dict[str, Any]
    field: str
    words: tuple[str, ...]


CASES = [
    Case(
        {"searcher": {"kind": "evolutoin"}}, "searcher.kind", ("random, local,", "Did you mean 'evolution'?")
    ),
    Case({"searcher": {"kind": "random"}}, "searcher.budget", ("None", "It must be given.")),
    Case({"searcher": {"kind": "random", "budget": 0}}, "searcher.budget", ("1 or more",)),
    Case({"searcher": {**TINY["searcher"], "mutants": 5}}, "searcher.mutants", ("5", "at most 4")),  # type: ignore[dict-item]
    Case({"searcher": None}, "searcher", ("It must be given.",)),
    Case({"space": {"kind": "smal_chain"}}, "space.kind", ("nasbench201, ", "Did you mean 'small_chain'?")),
    Case(
        {"space": {**CHAIN, "chanels": 4}},
        "space.chanels",
        ("channels, head_channels", "Did you mean 'channels'?"),
    ),
    Case({"space": {**CHAIN, "channels": 1}}, "space.channels", ("2 or more",)),
    Case(
        {"score": {"kind": "computed", "names": ["params", "acuracy"]}},
        "score.names.1",
        ("'acuracy'", "mean 'accuracy'?"),
    ),
    Case({"score": {"kind": "computed", "names": []}}, "score.names", ("at least one",)),
    Case({"score": {"kind": "tabel"}}, "score.kind", ("computed, table", "Did you mean 'table'?")),
    Case({"score": {"kind": "table", "names": ["known"]}}, "score.path", ("It must be given.",)),
    Case({"in_flight": 4}, "in_flight", ("4", "a multiple of round (3)")),
    Case({"in_flight": 2}, "in_flight", ("2", "a multiple of round (3)")),
    Case({"round": 0}, "round", ("1 or more",)),
    Case(
        {"objectives": [{"metric": "acuracy"}]},
        "objectives.0.metric",
        ("accuracy, params, macs, ", "mean 'accuracy'?"),
    ),
    Case(
        {"objectives": [{"metric": "accuracy"}, {"metric": "naswot"}]}, "objectives.1.metric", ("latency_ms",)
    ),
    Case(
        {"objectives": [{"metric": "params", "maximise": False}]},
        "objectives.0.maximise",
        ("the first objective ranks",),
    ),
    Case({"objectives": [{"metric": "macs"}]}, "objectives.0.metric", ("'macs'", "accuracy, params.")),
    Case({"constraints": [{"cost": "params"}]}, "constraints.0.at_most", ("at_most, at_least or both",)),
    Case(
        {"constraints": [{"cost": "params", "at_most": 1, "at_least": 2}]},
        "constraints.0.at_least",
        ("at most 1",),
    ),
    Case({**OF_TABLE, "supernet": {"steps": 3}}, "supernet", ("where a table scores",)),
    Case({**OF_TABLE, "data": {"name": "digits", "limit": 100}}, "data", ("where a table scores",)),
    Case({**OF_TABLE, "ranking": RANKING}, "ranking", ("where a table scores",)),
    Case({"supernet": None}, "score.names.0", ("'accuracy'", "where `supernet` is not given")),
    Case(
        {**UNTRAINED, "ranking": RANKING}, "ranking.scores.0", ("'accuracy'", "where `supernet` is not given")
    ),
    Case({"ranking": {**RANKING, "scores": ["acuracy"]}}, "ranking.scores.0", ("Did you mean 'accuracy'?",)),
    Case({"ranking": {**RANKING, "cells": 2}}, "ranking.cells", ("3 or more",)),
    Case({"baseline": True, "searcher": {"kind": "grid"}}, "baseline", ("True", "grid")),
    Case({"baseline": True, "searcher": {"kind": "random", "budget": 3}}, "baseline", ("True", "random")),
    Case({"supernet": {"stepps": 3}}, "supernet.stepps", ("Did you mean 'steps'?",)),
    Case({"supernet": {"lr": 0}}, "supernet.lr", ("above 0",)),
    Case({"training": {"epochs": 3}}, "training", ("these keys: allow_mixed, baseline",)),
]


def mistakes(raw: dict[str, Any]) -> list[UserError]:
    raw = {name: value for name, value in raw.items() if value is not None}
    model = recipe_model(raw)
    with pytest.raises(ValidationError) as caught:
        model.model_validate(raw)
    return explain(caught.value, model, raw)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.field}-{case.words[0]}")
def test_a_mistake_is_told_in_words(case: Case) -> None:
    (mistake,) = mistakes({**TINY, **case.changes})
    assert mistake.field == case.field
    for word in case.words:
        assert word in str(mistake)


def test_the_file_and_the_change_are_named(tmp_path: Path) -> None:
    path = write_tiny(tmp_path, searcher={"kind": "lokal", "budget": 3})
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path), ["score.names=[acuracy]"])
    assert str(caught.value).splitlines() == [
        f"{path}: searcher.kind: 'lokal' cannot be used; allowed: grid, random, local, "
        f"{str(caught.value).split('random, local, ')[1].splitlines()[0]}",
        f"{path} with --set score.names=[acuracy]: {caught.value.mistakes[1]}",
    ]
    assert "Did you mean 'local'?" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        OF_TABLE,
        {"searcher": {"kind": "grid"}},
        UNTRAINED,
        {"ranking": RANKING, "baseline": False, "warm_start": {"path": "warm.csv"}},
        {"objectives": [{"metric": "accuracy"}, {"metric": "macs", "maximise": False}]},
    ],
)
def test_a_recipe_reads_what_it_wrote(tmp_path: Path, changes: dict[str, Any]) -> None:
    """As runs keep it, and as it travels to other processes."""
    recipe = tiny_recipe(tmp_path, **changes)
    raw = recipe.model_dump(mode="json")
    assert recipe_model(raw) is SearchRecipe
    assert SearchRecipe.model_validate(raw) == recipe
    assert SearchRecipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert SearchRecipe.model_validate(raw).digest == recipe.digest


def test_what_a_recipe_leaves_out(tmp_path: Path) -> None:
    plain = tiny_recipe(tmp_path, in_flight=None)
    assert (plain.metric, plain.rounds_in_flight, plain.has_baseline) == ("accuracy", 1, True)
    assert [goal.model_dump() for goal in plain.goals] == [{"metric": "accuracy", "maximise": True}]
    assert tiny_recipe(tmp_path).rounds_in_flight == 2
    assert not tiny_recipe(tmp_path, baseline=False).has_baseline
    assert not tiny_recipe(tmp_path, searcher={"kind": "random", "budget": 3}).has_baseline


# The digest ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"name": "npz", "path": "elsewhere.npz"}},
        {"ranking": {**RANKING, "table": "elsewhere.csv"}},
        {"warm_start": {"path": "elsewhere.csv"}},
        {"resources": {"workers": 2}},
        {"retries": 0},
        {"allow_mixed": True},
        {"tracking": {"runs": "all"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_digest_ignores_places(tmp_path: Path, changes: dict[str, Any]) -> None:
    given = {
        "data": {"name": "npz", "path": "here.npz"},
        "ranking": RANKING,
        "warm_start": {"path": "here.csv"},
    }
    here, there = tiny_recipe(tmp_path, **given), tiny_recipe(tmp_path / "elsewhere", **{**given, **changes})
    assert here != there
    assert here.digest == there.digest


def test_the_digest_ignores_the_place_of_a_table(tmp_path: Path) -> None:
    here, there = (
        tiny_recipe(tmp_path, **{**OF_TABLE, "score": {**TABLE, "path": path}})
        for path in ("a.csv", "b/c.csv")
    )
    other = tiny_recipe(tmp_path, **{**OF_TABLE, "score": {**TABLE, "names": ["other"]}})
    assert here.digest == there.digest != other.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"name": "other"},
        {"round": 1},
        {"in_flight": 3},
        {"baseline": False},
        {"supernet": {"steps": 5}},
        {"score": {"kind": "computed", "names": ["accuracy"]}},
        {"ranking": {**RANKING, "cells": 11}},
        {"constraints": [{"cost": "params", "at_most": 5000}]},
        {"data": {"name": "digits", "limit": 150}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_digest_sees_what_decides(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert tiny_recipe(tmp_path).digest != tiny_recipe(tmp_path, **changes).digest


# Grids -----------------------------------------------------------------------------------------------------


def test_recipes_without_a_kind_of_space_still_mean_randwire() -> None:
    old = {**SMALL, "space": {key: value for key, value in SMALL["space"].items() if key != "kind"}}  # type: ignore[attr-defined]
    assert recipe_model(old) is Recipe
    assert Recipe.model_validate(old) == Recipe.model_validate(SMALL)
    assert Recipe.model_validate(old).digest == Recipe.model_validate(SMALL).digest


def test_what_has_a_searcher_is_a_search() -> None:
    assert recipe_model({"searcher": {}}) is SearchRecipe
    assert recipe_model({"space": {"kind": "small_chain"}}) is SearchRecipe
    assert recipe_model({"space": {"kind": "listed"}}) is recipe_model({"space": 5}) is Recipe


def listed(**changes: object) -> ListedSection:
    return ListedSection.model_validate({"space": CHAIN, "genes": [[0] * 8, [1] * 8], **changes})


def test_listed_candidates_are_a_grid_of_candidates_and_seeds() -> None:
    space = listed(seeds=2).build(Shape(1, 8, 8), 10)
    assert list(space.enumerate()) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert space.names((1, 1)) == {
        "setting": "1 1 1 1 1 1 1 1",
        "seed": 2,
        **{f"block {number}": "mbconv3_3x3" for number in range(1, 9)},
    }
    assert space.decode((1, 0)) == space.decode((1, 1)) == space.space.decode((1,) * 8)
    assert space.cost((1, 0)) == space.space.cost((1,) * 8)
    others = [listed(), listed(seeds=2), listed(genes=[[1] * 8, [0] * 8])]
    assert len({one.build(Shape(1, 8, 8), 10).digest for one in others}) == 3


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"genes": [[0] * 8, [0] * 7]}, "space.genes.1", "8 genes: block 1"),
        ({"genes": [[0] * 8, [0, 3, *[0] * 6]]}, "space.genes.1", "0 to 2"),
        ({"genes": [[0, -1, *[0] * 6]]}, "space.genes.0", "0 to 2"),
        ({"genes": [[0] * 8, [0] * 8]}, "space.genes", "each once"),
    ],
)
def test_listed_genes_that_the_space_does_not_have(changes: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        listed(**changes).build(Shape(1, 8, 8), 10)
    assert caught.value.field.startswith(field)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"genes": []}, "space.genes"),
        ({"seeds": 0}, "space.seeds"),
        ({"space": {"kind": "x"}}, "space.space.kind"),
    ],
)
def test_a_listed_section_that_cannot_be(changes: dict[str, Any], field: str) -> None:
    raw = {**SMALL, "space": {"kind": "listed", "space": CHAIN, "genes": [[0] * 8], **changes}}
    (mistake,) = mistakes(raw)
    assert mistake.field == field
