"""A search that rewrites given cells, on a table: what it records, what it says, and that it goes on."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from pydantic import ValidationError

from cluster.ledger import Row
from cluster.mlflow_view import SearchView
from cluster.network_file import save_network
from cluster.recipe import load_recipe
from cluster.run import Run
from cluster.search_messages import SearchConfig
from cluster.search_plan import SearchPlan
from cluster.search_recipe import SearchRecipe
from cluster.search_report import search_markdown, write_search_report
from cluster.transform_command import transforming
from networks.architecture import Shape
from networks.errors import UserError
from networks.generators import WattsStrogatz
from networks.network import build_network
from networks.randwire import RandWireTemplate
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space, cell_string
from searchers.rewriting import Rewriting
from searchers.transitions import reachable
from tests.cluster.choices import new_search, ready, reports
from tests.cluster.commands import weft
from tests.cluster.rows import row as made_row
from tests.trainers.test_data_files import real

SPACE = NasBench201Space(NasBench201Settings(channels=4, cells=1), Shape(3, 32, 32), 10)
GIVEN = (3, 3, 2, 4, 1, 0)
RECIPE: dict[str, Any] = {
    "version": 1,
    "name": "nat",
    "space": {"kind": "nasbench201", "channels": 4, "cells": 1},
    "searcher": {
        "kind": "nat", "transform": [cell_string(GIVEN), [2] * 6], "steps": 6, "cells": 3, "draws": 4,
        "candidates": 5, "policy": {"encoder": "line", "baseline": "cell", "rate": 0.003, "floor": -5.0},
    },
    "score": {"kind": "table", "names": ["quality"]},
    "round": 40,
    "in_flight": 80,
}  # fmt: skip


def quality(genes: tuple[int, ...]) -> float:
    """Skip connections are good, but for the last."""
    return sum(gene == 1 for gene in genes[:5]) - 2.0 * (genes[5] == 1)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "table.csv"
    with path.open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(["genes", "quality"])
        for genes in SPACE.enumerate():
            sheet.writerow([json.dumps(list(genes)), quality(genes)])
    return path


def recipe(storage: Path, table: Path, **searcher: Any) -> SearchRecipe:
    raw = {**RECIPE, "storage": storage, "searcher": {**RECIPE["searcher"], **searcher}}
    return SearchRecipe.model_validate({**raw, "score": {**RECIPE["score"], "path": table}})


def finished(config: SearchConfig) -> Run:
    trial = ready(config)
    reports(trial)
    trial.close()
    return Run(config.folder)


def test_every_rewriting_has_a_parent_and_an_edit(tmp_path: Path, table: Path) -> None:
    run = finished(new_search(recipe(tmp_path, table)))
    rows = list(run.ledger.rows())
    by_id = {row.candidate.id: row for row in rows}
    made = [row for row in rows if row.parent]
    assert len(made) > 20 and any(not row.parent for row in rows)
    for row in made:
        parent = by_id[row.parent]
        assert parent.candidate.ask_index < row.candidate.ask_index and row.edit
        assert row.edit == SPACE.edit(parent.candidate.genes, row.candidate.genes)
        before, after = (SPACE.cells(one.candidate.genes)[0].words for one in (parent, row))
        assert all(new in reachable(old, "nat") for old, new in zip(before, after, strict=True))
        assert row.cost.params <= parent.cost.params and row.cost.macs <= parent.cost.macs


def test_the_report_tells_what_was_made_of_what_was_given(tmp_path: Path, table: Path) -> None:
    asked = recipe(tmp_path, table, steps=60, cells=6)
    run = finished(new_search(asked))
    found = write_search_report(run, SearchPlan.of(asked))
    first, second = found["transformed"]
    assert (first["genes"], first["rewritings"]) == (list(GIVEN), 5)
    assert first["before"]["genes"] == list(GIVEN) and second["before"]["genes"] == [2] * 6
    assert second["after"]["metrics"]["quality"] > second["before"]["metrics"]["quality"]
    assert second["edit"] == SPACE.edit((2,) * 6, tuple(second["after"]["genes"]))
    text = search_markdown(found)
    assert "## Transformed" in text and second["edit"] in text
    assert "ms an image" not in text and "latency_ms" not in second["after"], "a table has no networks"


def test_it_goes_on_where_it_was_stopped(tmp_path: Path, table: Path) -> None:
    whole = finished(new_search(recipe(tmp_path / "whole", table))).ledger.digest()
    for rounds in (1, 4, 7):
        config = new_search(recipe(tmp_path / str(rounds), table))
        trial = ready(config)
        for _ in range(rounds):
            trial.step()
        trial.close()
        assert finished(config).ledger.digest() == whole


def test_another_seed_is_another_search(tmp_path: Path, table: Path) -> None:
    digests = {
        finished(new_search(recipe(tmp_path / str(seed), table).model_copy(update={"seed": seed})))
        .ledger.digest() for seed in (0, 1)
    }  # fmt: skip
    assert len(digests) == 2


def test_mlflow_has_the_parent_and_the_edit(tmp_path: Path, table: Path) -> None:
    run = finished(new_search(recipe(tmp_path, table, steps=1)))
    rows = list(run.ledger.rows())
    client = MlflowClient(run.tracking_uri)
    view = SearchView(client, run)
    for row in rows:
        view.write_row(row)
    found = client.search_runs([view._experiment], f"tags.`mlflow.parentRunId` = '{view.parent}'")
    children = {one.data.tags["weft.candidate_id"]: one for one in found}
    for row in rows:
        tags = children[row.candidate.id].data.tags
        assert tags.get("weft.parent_candidate", "") == row.parent
        assert tags.get("weft.edit", "") == row.edit


def test_old_rows_keep_their_digest() -> None:
    plain = made_row(3)
    assert plain.digest == Row.model_validate(plain.model_dump()).digest
    assert plain.model_copy(update={"parent": "p", "edit": "e"}).digest != plain.digest


@pytest.mark.parametrize(
    ("searcher", "field", "words"),
    [
        ({"transform": ["|conv_9x9~0|+|none~0|none~1|+|none~0|none~1|none~2|"]}, "searcher.transform.0.cell",
         "operations none"),
        ({"transform": [[0, 1, 2]]}, "searcher.transform.0.genes", "6 genes"),
        ({"transform": [[0, 1, 2, 3, 4, 9]]}, "searcher.transform.0.genes.5 (2-3)", "0 to 4"),
        ({"policy": {"encoder": "graph"}}, "searcher.policy.cell", "two links into each node"),
    ],
)  # fmt: skip
def test_mistakes_are_found_before_a_run_begins(
    searcher: dict[str, Any], field: str, words: str, tmp_path: Path, table: Path
) -> None:
    with pytest.raises(UserError) as caught:
        new_search(recipe(tmp_path / "runs", table, **searcher))
    assert caught.value.field == field and words in caught.value.allowed
    assert not (tmp_path / "runs").exists()


def test_a_space_without_cells_cannot_be_rewritten(tmp_path: Path) -> None:
    changes = {"space": {"kind": "small_chain"}, "searcher": {"kind": "nat", "transform": [[0] * 8]}}
    with pytest.raises(UserError, match="a space of cells"):
        new_search(SearchRecipe.model_validate({
            "version": 1, "name": "chain", "storage": tmp_path, "data": {"name": "digits", "limit": 160},
            "supernet": {"steps": 4, "batch_size": 16}, **changes,
            "score": {"kind": "computed", "batch_size": 64},
        }))  # fmt: skip


def test_the_command_says_what_changed(tmp_path: Path, table: Path, no_mlflow: None) -> None:
    raw = {**RECIPE, "score": {**RECIPE["score"], "path": str(table)}}
    (tmp_path / "nat.yaml").write_text(yaml.safe_dump(raw))
    ended = weft("search", "nat.yaml", "--local", cwd=tmp_path)
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    head = next(number for number, line in enumerate(lines) if line.strip().startswith("transformed"))
    assert lines[head + 2].split()[:8] == ["given", "1", "3", "3", "2", "4", "1", "0"]
    assert lines[head + 3].split()[0] == "became"
    assert any("what changed" in line for line in lines) and any(": none to skip" in line for line in lines)
    assert "what changed" in weft("show", "nat", cwd=tmp_path).out


# On a supernet ------------------------------------------------------------------------------------

BETA = "normal 2=sep3(0)+c3(1); 3=S(0)+dil3(2); out=2,3 | reduction 2=max3(0)+S(1); 3=sep3(0)+N(2); out=2,3"


def supernet_recipe(storage: Path, final_lr: float = 0.0, **searcher: Any) -> SearchRecipe:
    return SearchRecipe.model_validate({
        "version": 1, "name": "cells", "storage": storage, "data": {"name": "digits", "limit": 200},
        "space": {"kind": "cells", "channels": 4, "cells": 3, "nodes": 2},
        "supernet": {"steps": 6, "batch_size": 16, "paths_per_step": 2, "final_lr": final_lr},
        "searcher": {"kind": "nat", "transform": [BETA], "steps": 3, "cells": 2, "draws": 2, "candidates": 4,
                     "policy": {"encoder": "graph"}, **searcher},
        "score": {"kind": "computed", "names": ["accuracy"], "batch_size": 64}, "round": 40,
    })  # fmt: skip


def test_a_cell_of_yours_in_one_command(tmp_path: Path, table: Path, no_mlflow: None) -> None:
    raw = {**RECIPE, "score": {**RECIPE["score"], "path": str(table)}}
    (tmp_path / "nat.yaml").write_text(yaml.safe_dump(raw))
    (tmp_path / "mine.txt").write_text(cell_string((2, 2, 1, 0, 3, 3)) + "\n")
    words = ("transform", "nat.yaml", "mine.txt", cell_string(GIVEN), "--local", "--json")
    ended = weft(*words, cwd=tmp_path)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)["transformed"]
    assert [one["genes"] for one in found] == [[2, 2, 1, 0, 3, 3], list(GIVEN)]
    refused = weft("transform", "nat.yaml", "no such cell " * 100, "--local", cwd=tmp_path)
    assert refused.code == 2 and "searcher.transform.0" in refused.err


def test_cells_are_rewritten_by_a_supernets_scores(tmp_path: Path) -> None:
    asked = supernet_recipe(tmp_path)
    run = finished(new_search(asked))
    found = write_search_report(run, SearchPlan.of(asked))
    (one,) = found["transformed"]
    assert one["rewritings"] == 4 and str(one["before"]["names"]["genotype"]).startswith("normal 2=sep3(0)")
    assert one["after"]["macs"] <= one["before"]["macs"] and one["after"]["params"] <= one["before"]["params"]
    assert all(one[side]["latency_ms"] > 0 for side in ("before", "after"))
    line = next(line for line in search_markdown(found).splitlines() if line.startswith("| given |"))
    assert line.split(" | ")[-3:-1] == ["ms an image", "then"]
    assert finished(new_search(supernet_recipe(tmp_path / "again"))).ledger.digest() == run.ledger.digest()


ALTERNATING = {"alternate": {"every": 1, "steps": 2}}


def alternating(storage: Path) -> SearchRecipe:
    return supernet_recipe(storage, 0.01, **ALTERNATING)


def test_weights_and_policy_learn_in_turn(tmp_path: Path) -> None:
    trial = ready(new_search(alternating(tmp_path / "whole")))
    said = reports(trial)
    digest, ledger, steps = trial.pool.digest(), trial.run.ledger.digest(), trial.pool.step
    trial.close()
    assert steps == 6 + 3 * 2 and said[-1].done
    stages = [one.stage for one in said]
    last = len(stages) - 1 - stages[::-1].index("training")
    assert stages.index("search") < last, "it trains after it searched"
    for cut in (2, 4, 6, 8):
        config = new_search(alternating(tmp_path / str(cut)))
        first = ready(config)
        for _ in range(cut):
            first.step()
        first.close()
        again = ready(config)
        reports(again)
        assert (again.pool.digest(), again.run.ledger.digest()) == (digest, ledger)
        again.close()
    whole = finished(new_search(supernet_recipe(tmp_path / "before"))).ledger.digest()
    assert whole != ledger


def test_the_network_that_is_kept_is_one_that_was_made(tmp_path: Path) -> None:
    asked = supernet_recipe(tmp_path)
    run = finished(new_search(asked))
    plan = SearchPlan.of(asked)
    (found,) = write_search_report(run, plan)["transformed"]
    about = json.loads((run.folder / "best" / "network.json").read_text())["about"]
    assert about["genes"] == found["after"]["genes"]


def test_what_cannot_alternate_is_refused(tmp_path: Path, table: Path) -> None:
    with pytest.raises(ValidationError, match=r"searcher\.alternate"):
        recipe(tmp_path, table, **ALTERNATING)
    with pytest.raises(ValidationError, match=r"final_lr"):
        supernet_recipe(tmp_path, **ALTERNATING)


def test_strict_rewriting_keeps_halving_edges_cheap(tmp_path: Path) -> None:
    """Where an edge halves the size, a skip connection has weights: a pooling may not become one there."""
    plan = SearchPlan.of(supernet_recipe(tmp_path))
    (given,) = plan.given
    for strict, allowed in ((True, False), (False, True)):
        rewriting = Rewriting(plan.space, "nat", strict=strict)
        legal = rewriting.legal([given])
        assert legal.shape == (2, 4, 3)
        assert bool(legal[1, 0, rewriting.actions.names.index("S")]) == allowed  # max3(0) of the reduction
        assert legal[0, 0].all() and legal[0, 2].tolist() == [True, False, True]


def test_a_bound_that_nothing_reachable_meets_is_refused_and_the_cheapest_named(
    tmp_path: Path, table: Path
) -> None:
    asked = recipe(tmp_path, table, transform=[[3, 0, 2, 1, 1, 1]])
    cheapest = (1, 0, 1, 1, 1, 1)  # skip connections cost nothing, and are more than nothing
    least = SPACE.cost(cheapest).params
    for bound, refused in ((least, False), (least - 1, True)):
        bounded = SearchRecipe.model_validate(
            {**asked.model_dump(), "constraints": [{"cost": "params", "at_most": bound}]}
        )
        if not refused:
            SearchPlan.of(bounded)
            continue
        with pytest.raises(UserError) as caught:
            SearchPlan.of(bounded)
        assert caught.value.field == "constraints.0.at_most" and f"{least:,} or more" in caught.value.allowed
        assert (
            "transform.0" in caught.value.fix and SPACE.edit((3, 0, 2, 1, 1, 1), cheapest) in caught.value.fix
        )


def test_a_given_cell_that_breaks_a_constraint_is_not_the_best(tmp_path: Path, table: Path) -> None:
    """Though it scores best: what is kept meets the bound."""
    given = (1, 1, 1, 1, 3, 2)  # two operations that compute; without the first of them it is cheaper
    limit = SPACE.cost((1, 1, 1, 1, 3, 0)).params
    made = recipe(tmp_path, table, transform=[list(given)], steps=0, candidates=3)
    bound = SearchRecipe.model_validate(
        {**made.model_dump(), "constraints": [{"cost": "params", "at_most": limit}]}
    )
    plan, run = SearchPlan.of(bound), finished(new_search(bound))
    report = write_search_report(run, plan)
    (one,) = report["transformed"]
    assert SPACE.cost(given).params > limit >= one["after"]["params"] and one["fits"]
    assert one["before"]["params"] == SPACE.cost(given).params and one["edit"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"searcher": {"draws": 1}}, "2 or more with policy.baseline: cell"),
        ({"warm_start": {"path": "table.csv"}}, "nothing with the searcher nat"),
    ],
)
def test_what_nat_cannot_do_is_refused(
    tmp_path: Path, table: Path, changes: dict[str, Any], said: str
) -> None:
    raw = recipe(tmp_path, table).model_dump()
    changes = {key: {**raw[key], **value} if raw[key] else value for key, value in changes.items()}
    with pytest.raises(ValidationError, match=re.escape(said)):
        SearchRecipe.model_validate({**raw, **changes})


def test_nat_does_not_shrink_its_space(tmp_path: Path) -> None:
    raw = supernet_recipe(tmp_path).model_dump()
    raw["supernet"]["final_lr"] = 0.01
    shrinking = {"score": "angle_searched", "drop": 2, "until": 100, "steps": 5, "then": 5}
    with pytest.raises(ValidationError, match="nothing with the searcher nat"):
        SearchRecipe.model_validate({**raw, "shrinking": shrinking})


def test_a_perceptron_needs_cells_that_are_wired_alike(tmp_path: Path) -> None:
    raw = supernet_recipe(tmp_path).model_dump()
    raw["searcher"] |= {"policy": {"encoder": "mlp"}}
    with pytest.raises(UserError, match=r"searcher\.policy\.encoder"):
        SearchPlan.of(SearchRecipe.model_validate(raw))


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_the_packaged_recipe_takes_standard_networks(name: str) -> None:
    """Which have no place for an auxiliary head's two cells, nor for drop-path."""
    data = [f"data.path={real('cifar10_lossless_5593.npz')}"]
    changes = transforming("nat_darts_cifar10", [name], data)
    made = load_recipe("nat_darts_cifar10", changes)
    assert isinstance(made, SearchRecipe) and made.retraining is not None
    assert made.retraining.training.drop_path == made.retraining.training.auxiliary == 0
    SearchPlan.of(made)
    cells = transforming("nat_darts_cifar10", ["ResBlock"], data)
    kept = load_recipe("nat_darts_cifar10", cells)
    assert isinstance(kept, SearchRecipe) and kept.retraining is not None
    assert kept.retraining.training.drop_path > 0


# A network ----------------------------------------------------------------------------------------


@pytest.fixture
def for_cells(tmp_path: Path) -> Path:
    """A recipe of cells, which ends with trained networks."""
    raw = json.loads(supernet_recipe(tmp_path / "runs").model_dump_json())
    raw["searcher"] |= {"steps": 2, "policy": {"encoder": "line"}}
    raw["retraining"] = {"seeds": 1, "space": {"channels": 6}, "training": {"epochs": 1, "batch_size": 16}}
    (tmp_path / "cells.yaml").write_text(yaml.safe_dump(raw))
    return tmp_path


def test_a_network_of_yours_in_one_command(for_cells: Path, no_mlflow: None) -> None:
    """The winner of another search: what that wrote as its best network."""
    template = RandWireTemplate(regime="cifar", nodes=6, channels=4, image=Shape(1, 8, 8), classes=10)
    given = template.architecture(WattsStrogatz(k=2, p=0.5), 1)
    save_network(for_cells / "winner", build_network(given, 0), {})
    ended = weft("transform", "cells.yaml", "winner/network.json", "--local", "--json", cwd=for_cells)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    (one,) = found["transformed"]
    assert one["label"] == "given" and one["before"]["params"] == given.complexity().params
    assert one["after"]["params"] <= one["before"]["params"]
    assert [line["label"] for line in found["retrained"]] == ["given", "given rewritten"]
    described = weft("describe", "cells.yaml", cwd=for_cells)
    assert described.code == 0 and "up to 2 trainings of networks on their own" in described.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("resnet20", "vgg16"), "CELL: '2 of them'.*one, where it is a network"),
        (("resnet20", "--set", "space.hooks=-1"), r"space\.hooks"),
        (("bad.json",), r"space\.architecture.*a file with an architecture as JSON.*In it, image"),
        (("back.json",), r"space\.architecture.*In it, stages\.0\.graph.*a graph without cycles"),
        (("other.json",), r"space\.architecture\.image.*\[1, 8, 8\]"),
    ],
)
def test_networks_that_cannot_be_transformed(for_cells: Path, words: tuple[str, ...], said: str) -> None:
    (for_cells / "bad.json").write_text('{"image": 3}')
    template = RandWireTemplate(regime="cifar", nodes=6, channels=4, image=Shape(3, 16, 16), classes=10)
    back = json.loads(template.architecture(WattsStrogatz(k=2, p=0.5), 1).to_json())
    edge = next(one for one in back["stages"][0]["graph"]["edges"] if one["source"] and one["slot"] == 0)
    back["stages"][0]["graph"]["edges"].append({**edge, "source": edge["target"], "target": edge["source"]})
    (for_cells / "back.json").write_text(json.dumps(back))
    (for_cells / "other.json").write_text(template.architecture(WattsStrogatz(k=2, p=0.5), 1).to_json())
    refused = weft("transform", "cells.yaml", *words, "--local", cwd=for_cells)
    assert refused.code == 2
    assert re.search(said, " ".join(refused.err.split())), refused.err
    assert not (for_cells / "runs").exists()
