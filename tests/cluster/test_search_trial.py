"""One search as a trial: interrupted anywhere it ends as the undisturbed one, and what is wrong is told."""

import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import cluster.search_plan
from cluster.ledger import Ledger, Row
from cluster.local_search import drive_local_search
from cluster.network_file import load_network
from cluster.pool import LocalPool
from cluster.replica import Replica
from cluster.run import Run
from cluster.search_messages import SearchConfig, SearchReport
from cluster.search_report import score_rankings, search_report
from cluster.search_trial import SearchTrial
from networks.architecture import Architecture, Shape
from networks.counters import counter_random
from networks.errors import UserError
from networks.network import Network
from networks.spaces.space import Genes
from tests.cluster.choices import chain_space, new_search, ready, reports, tiny_recipe, write_table
from trainers.data import open_data
from trainers.recalibration import recalibrated
from trainers.scores.accuracy import validate
from trainers.scores.registry import SCORES
from trainers.scores.score import Bench

SPACE = chain_space()


class Done(NamedTuple):
    config: SearchConfig
    digest: str
    weights: str
    said: list[SearchReport]

    @property
    def rows(self) -> list[Row]:
        return list(Run(self.config.folder).ledger.rows())


def finish(config: SearchConfig) -> Done:
    trial = ready(config)
    said = reports(trial)
    weights = trial.pool.digest()
    trial.close()
    return Done(config, Run(config.folder).ledger.digest(), weights, said)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The tiny search, undisturbed."""
    return finish(new_search(tiny_recipe(tmp_path_factory.mktemp("whole") / "runs")))


def started(config: SearchConfig, steps: int) -> SearchTrial:
    trial = ready(config)
    for _ in range(steps):
        trial.step()
    return trial


# The steps, and going on -----------------------------------------------------------------------------------


def test_a_search_trains_asks_and_compares(whole: Done) -> None:
    stages = [report.stage for report in whole.said]
    trained = stages.count("training")
    assert trained >= 2
    assert stages == ["training"] * trained + ["search"] * 4 + ["random"] * 4 + ["done"]
    assert [report.asked for report in whole.said[trained:]] == [3, 6, 9, 12, 15, 18, 21, 24, 24]
    assert whole.said[trained - 1].step == whole.said[-1].steps == 4
    assert math.isfinite(whole.said[0].metrics["train_loss"])
    rows = whole.rows
    assert [row.candidate.phase for row in rows] == ["search"] * 12 + ["random"] * 12
    assert (
        len({row.candidate.genes for row in rows[:12]})
        == len({row.candidate.genes for row in rows[12:]})
        == 12
    )
    assert whole.said[-1].best == max(row.metrics["accuracy"] for row in rows[:12])
    assert all(row.metrics["params"] == row.cost.params for row in rows)


def test_set_up_anew_after_every_step_it_ends_the_same(tmp_path: Path, whole: Done) -> None:
    config = new_search(tiny_recipe(tmp_path))
    steps = 0
    while not started(config, 1).run.folder.joinpath("best", "network.json").exists():
        steps += 1
        assert steps < 40
    trial = ready(config)
    assert trial.step().done
    assert (trial.run.ledger.digest(), trial.pool.digest()) == (whole.digest, whole.weights)
    assert steps == len(whole.said) - 1


def test_an_interruption_inside_a_round_loses_nothing_but_the_round(
    tmp_path: Path, whole: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = new_search(tiny_recipe(tmp_path))
    scored = 0
    score = Replica._score

    def stop(replica: Replica, *of: Any) -> object:
        nonlocal scored
        scored += 1
        if scored == 8:
            raise KeyboardInterrupt
        return score(replica, *of)

    with monkeypatch.context() as patch:
        patch.setattr(Replica, "_score", stop)
        with pytest.raises(KeyboardInterrupt):
            drive_local_search(config, lambda report: None)
    assert len(list(Run(config.folder).ledger.rows())) == 6
    assert finish(config).digest == whole.digest


def test_a_finished_search_is_done_at_once(whole: Done) -> None:
    trial = ready(whole.config)
    report = trial.step()
    assert (report.stage, report.asked, report.best) == ("done", 24, whole.said[-1].best)
    trial.close()
    trial.close()


def test_an_altered_ledger_is_refused(tmp_path: Path, whole: Done) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.config.folder, folder)
    rows = whole.rows[:3]
    other = rows[1].candidate.model_copy(update={"genes": (0,) * 8})
    rows[1] = rows[1].model_copy(update={"candidate": other})
    (folder / "ledger" / "00000000.json").unlink()
    Ledger(folder / "ledger").append_at(0, rows)
    with pytest.raises(UserError, match="At ask 1 it asks for genes"):
        ready(whole.config.model_copy(update={"folder": folder}))


def test_another_search_leaves_no_trace(tmp_path: Path) -> None:
    first = tiny_recipe(tmp_path / "a")
    other = tiny_recipe(
        tmp_path / "b",
        seed=7,
        space={"kind": "small_chain", "channels": 3, "head_channels": 4},
        supernet={"steps": 3, "batch_size": 8, "paths_per_step": 1, "lr": 0.2},
        searcher={"kind": "random", "budget": 4},
        score={"kind": "computed", "names": ["loss"], "batch_size": 32},
        round=2,
        in_flight=None,
    )
    fresh = finish(new_search(other))
    again = new_search(other.model_copy(update={"storage": tmp_path / "c"}))
    trial = started(new_search(first), 4)
    trial.reset(again)
    reports(trial)
    assert (trial.run.ledger.digest(), trial.pool.digest()) == (fresh.digest, fresh.weights)
    best = [
        json.loads((done / "best" / "network.json").read_text())
        for done in (again.folder, fresh.config.folder)
    ]
    assert best[0] == best[1]


# Checkpoints -----------------------------------------------------------------------------------------------


def cut_weights(folder: Path, step: int) -> None:
    path = folder / f"epoch-{step:06d}.safetensors"
    path.write_bytes(path.read_bytes()[:-20])


def flip_weights(folder: Path, step: int) -> None:
    path = folder / f"epoch-{step:06d}.safetensors"
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)


def cut_note(folder: Path, step: int) -> None:
    path = folder / f"epoch-{step:06d}.json"
    path.write_text(path.read_text()[:-20])


def change_note(folder: Path, step: int) -> None:
    path = folder / f"epoch-{step:06d}.json"
    path.write_text(path.read_text().replace('"segments": ', '"segments": 1'))


def lose_weights(folder: Path, step: int) -> None:
    (folder / f"epoch-{step:06d}.safetensors").unlink()


Damage = Callable[[Path, int], None]
DAMAGES = [cut_weights, flip_weights, cut_note, change_note, lose_weights]


@pytest.fixture
def trained(tmp_path: Path) -> SearchConfig:
    """A search that was stopped after its first round, with checkpoints after steps 2 and 4."""
    config = new_search(tiny_recipe(tmp_path))
    trial = ready(config)
    while trial.step().stage == "training":
        pass
    stored = sorted((config.folder / "supernet").glob("*.json"))
    assert [path.stem for path in stored] == ["epoch-000002", "epoch-000004"]
    return config


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_is_used_where_the_newest_is_bad(
    trained: SearchConfig, whole: Done, damage: Damage
) -> None:
    damage(trained.folder / "supernet", 4)
    trial = ready(trained)
    assert trial.pool.step == 2
    said = reports(trial)
    assert said[0].stage == "training"
    assert (trial.run.ledger.digest(), trial.pool.digest()) == (whole.digest, whole.weights)


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_a_usable_checkpoint_it_stops(trained: SearchConfig, damage: Damage) -> None:
    folder = trained.folder / "supernet"
    for path in folder.glob("*.json"):
        damage(folder, int(path.stem.split("-")[1]))
    with pytest.raises(UserError, match=r"a whole checkpoint, unaltered\. Delete it") as caught:
        ready(trained)
    assert (caught.value.field, caught.value.value) == ("checkpoint", str(folder))
    shutil.rmtree(folder)
    assert ready(trained).pool.step == 0


def test_a_checkpoint_of_another_space_is_refused(tmp_path: Path) -> None:
    space = {"kind": "small_chain", "channels": 3, "head_channels": 4}
    other = started(new_search(tiny_recipe(tmp_path / "other", space=space)), 1)
    config = new_search(tiny_recipe(tmp_path / "runs"))
    shutil.copytree(other.config.folder / "supernet", config.folder / "supernet")
    with pytest.raises(UserError, match="a checkpoint of this recipe's space") as caught:
        ready(config)
    assert caught.value.field == "checkpoint"


def test_a_loss_that_is_no_number_names_the_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    config = new_search(tiny_recipe(tmp_path))
    trial = started(config, 1)
    step = trial.pool.step
    assert 0 < step < 4
    kept = (trial.pool.digest(), sorted((config.folder / "supernet").iterdir()))
    assert isinstance(trial.pool, LocalPool) and trial.pool.replica.trainer is not None
    with torch.no_grad():
        for parameter in trial.pool.replica.trainer.supernet.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(UserError, match=f"not a number at step {step}") as caught:
        trial.step()
    assert (caught.value.field, caught.value.value) == ("supernet.lr", 0.05)
    assert (ready(config).pool.digest(), sorted((config.folder / "supernet").iterdir())) == kept


def test_a_ledger_with_fewer_segments_than_the_checkpoint_names(tmp_path: Path) -> None:
    config = new_search(tiny_recipe(tmp_path))
    trial = ready(config)
    while len(trial.run.ledger.segments()) < 3:
        trial.step()
    trial.save()
    assert ready(config).pool.step == 4
    trial.run.ledger.segments()[-1].unlink()
    with pytest.raises(UserError, match=r"the 3 segments that were committed .* There are 2") as caught:
        ready(config)
    assert caught.value.field == "ledger"


def test_another_process_that_drives_the_same_run(tmp_path: Path, whole: Done) -> None:
    """After its driver was killed, a trial of before may live on while a resumed one begins."""
    config = new_search(tiny_recipe(tmp_path))
    orphan, resumed = ready(config), ready(config)
    while len(orphan.run.ledger.segments()) < 2:
        orphan.step()
    with pytest.raises(UserError, match="Another process is driving this run") as caught:
        while True:
            resumed.step()
    assert caught.value.field == "ledger"
    reports(orphan)
    assert (orphan.run.ledger.digest(), orphan.pool.digest()) == (whole.digest, whole.weights)
    assert not list(config.folder.rglob("*draft*"))


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = ready(new_search(tiny_recipe(tmp_path)))

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(trial._checkpoints._store, "save", full)
    with pytest.raises(UserError, match=r"a folder with room that can be written\. No space left") as caught:
        trial.step()
    assert caught.value.field == "storage"


# What is asked for -----------------------------------------------------------------------------------------


def score_of(genes: Genes) -> float:
    return sum(gene * 3**place for place, gene in enumerate(genes)) / 10


def table_recipe(folder: Path, **changes: object) -> SearchConfig:
    path = folder / "known.csv"
    if not path.exists():
        write_table(path, {"known": score_of})
    score = {"kind": "table", "path": str(path), "names": ["known"], "image": [1, 8, 8]}
    recipe = tiny_recipe(folder / "runs", data=None, supernet=None, score=score, **changes)
    return new_search(recipe)


def test_a_table_is_searched_without_replicas(tmp_path: Path) -> None:
    def no_pool(job: object) -> LocalPool:
        raise AssertionError("a table needs no replicas")

    trial = SearchTrial(no_pool)
    trial.setup(table_recipe(tmp_path))
    assert reports(trial)[-1].asked == 24
    rows = list(trial.run.ledger.rows())
    assert all(row.metrics == {"known": score_of(row.candidate.genes)} for row in rows)
    assert not (trial.config.folder / "supernet").exists()
    assert not (trial.config.folder / "best").exists()
    assert ready(trial.config).step().done


def test_a_table_that_lacks_candidates_fails_those(tmp_path: Path) -> None:
    known = [genes for genes in SPACE.enumerate() if genes[0] != 1]
    write_table(
        tmp_path / "known.csv", {"known": lambda genes: "" if genes[1] == 1 else score_of(genes)}, known
    )
    done = finish(table_recipe(tmp_path))
    for row in done.rows:
        genes = row.candidate.genes
        if genes[0] == 1:
            assert (row.status, row.metrics) == ("failed", {})
            assert row.reason == "the table does not hold it"
        elif genes[1] == 1:
            assert (row.status, row.reason) == ("failed", "the table holds no known of it")
        else:
            assert row.status == "ok"
    assert len({row.status for row in done.rows}) == 2


def test_a_tables_column_of_a_costs_name_is_what_counts(tmp_path: Path) -> None:
    """In the table, other candidates are large than in the space."""
    own = {"known": score_of, "params": lambda genes: float(genes[0])}
    path = write_table(tmp_path / "own.csv", own)
    score = {"kind": "table", "path": str(path), "names": ["known", "params"], "image": [1, 8, 8]}
    objectives = [{"metric": "known"}, {"metric": "params", "maximise": False}]
    recipe = tiny_recipe(tmp_path / "runs", data=None, supernet=None, score=score, objectives=objectives)
    done = finish(new_search(recipe))
    found = search_report(Run(done.config.folder), recipe, done.rows)
    best = {first: max((row for row in done.rows if row.candidate.genes[0] == first), key=known_of)
            for first in {row.candidate.genes[0] for row in done.rows}}  # fmt: skip
    assert {line["candidate"] for line in found["frontier"]} <= {
        row.candidate.ask_index for row in best.values()
    }
    assert max(done.rows, key=known_of).candidate.ask_index in {one["candidate"] for one in found["frontier"]}


def known_of(row: Row) -> float:
    return row.metrics["known"]


def test_an_altered_table_is_refused(tmp_path: Path) -> None:
    config = table_recipe(tmp_path)
    started(config, 2)
    write_table(tmp_path / "known.csv", {"known": lambda genes: score_of(genes) + 1})
    with pytest.raises(UserError, match="what the run began with"):
        ready(config)


def test_constraints_bind_every_candidate_of_every_phase(tmp_path: Path) -> None:
    params = sorted(SPACE.cost(genes).params for genes in SPACE.enumerate())
    low, high = params[len(params) // 4], params[len(params) // 3]
    constraints = [{"cost": "params", "at_least": low, "at_most": high}, {"cost": "macs", "at_most": 50_000}]
    macs = [SPACE.cost(genes).macs for genes in SPACE.enumerate() if low <= SPACE.cost(genes).params <= high]
    constraints[1]["at_most"] = sorted(macs)[len(macs) // 2]
    done = finish(table_recipe(tmp_path, constraints=constraints))
    costs = [SPACE.cost(row.candidate.genes) for row in done.rows]
    assert len(costs) == 24
    assert all(low <= cost.params <= high and cost.macs <= constraints[1]["at_most"] for cost in costs)


def test_known_candidates_are_not_asked_for_again(tmp_path: Path) -> None:
    rng = counter_random(1, "known")
    known = list(dict.fromkeys(SPACE.sample(rng) for _ in range(400)))
    write_table(tmp_path / "warm.csv", {"known": score_of}, known)
    warm = finish(table_recipe(tmp_path, warm_start={"path": str(tmp_path / "warm.csv")}))
    asked = [row.candidate.genes for row in warm.rows if row.candidate.phase == "search"]
    # The first generation is known already; the second is of the best known.
    assert len(asked) == 6
    assert not set(asked) & set(known)
    parents = sorted(known, key=score_of)[-2:]
    for child in asked[2:4]:  # crossovers
        assert all(gene in pair for gene, *pair in zip(child, *parents, strict=True))
    assert ready(warm.config).step().done


def failing(monkeypatch: pytest.MonkeyPatch, score: str, way: Callable[[Genes], bool]) -> None:
    """Let a score fail for some candidates."""
    real = SCORES[score]

    class Failing:
        name, needs_supernet, needs_batches = real.name, real.needs_supernet, real.needs_batches

        def supports(self, space: object) -> bool:
            return True

        def __call__(self, bench: Bench, genes: Genes) -> float:
            if way(genes):
                raise ValueError("it does not like it")
            return real(bench, genes)

    monkeypatch.setattr("trainers.scores.registry.SCORES", {**SCORES, score: Failing()})


def test_a_score_that_fails_takes_no_other_with_it(
    tmp_path: Path, whole: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`params` is no objective: its candidates are as good as before, and the search asks as before."""
    failing(monkeypatch, "params", lambda genes: genes[0] != 1)
    done = finish(new_search(tiny_recipe(tmp_path)))
    assert [row.candidate.genes for row in done.rows] == [row.candidate.genes for row in whole.rows]
    lost = [row for row in done.rows if row.candidate.genes[0] != 1]
    assert 0 < len(lost) < len(done.rows)
    for row, usual in zip(done.rows, whole.rows, strict=True):
        assert row.status == "ok" and row.metrics["accuracy"] == usual.metrics["accuracy"]
        expected = "params: ValueError: it does not like it" if row in lost else ""
        assert (row.reason, "params" in row.metrics) == (expected, not expected)


def test_a_candidate_without_an_objectives_score_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "accuracy", lambda genes: genes[0] == 1)
    for row in finish(new_search(tiny_recipe(tmp_path))).rows:
        lost = row.candidate.genes[0] == 1
        assert row.status == ("failed" if lost else "ok")
        assert row.metrics["params"] == row.cost.params
        assert row.reason == ("accuracy: ValueError: it does not like it" if lost else "")


# Ranking ---------------------------------------------------------------------------------------------------


def ranked(folder: Path, **changes: object) -> SearchConfig:
    truth = folder / "truth.csv"
    if not truth.exists():
        write_table(
            truth,
            {
                "size": lambda genes: "" if genes[0] == 2 else SPACE.cost(genes).params,
                "smallness": lambda genes: -SPACE.cost(genes).params,
            },
            itertools.islice(SPACE.enumerate(), 0, None, 40),
        )
    ranking = {"table": str(truth), "truth": "size", "scores": ["params", "accuracy"], "cells": 10, **changes}
    score = {"kind": "computed", "names": ["accuracy"], "batch_size": 64}
    searcher = {"kind": "random", "budget": 3}
    return new_search(tiny_recipe(folder / "runs", ranking=ranking, score=score, searcher=searcher))


def test_scores_are_ranked_on_candidates_of_known_truth(tmp_path: Path) -> None:
    done = finish(ranked(tmp_path))
    assert [report.asked for report in done.said if report.stage == "ranking"] == [3, 6, 9, 10]
    rows = list(Ledger(done.config.folder / "ranking").rows())
    assert len({row.candidate.genes for row in rows}) == len(rows) == 10
    assert {row.candidate.phase for row in rows} == {"ranking"}
    assert all(row.candidate.genes[0] != 2 for row in rows)
    assert all(set(row.metrics) == {"params", "accuracy"} for row in rows)
    trial = ready(done.config)
    params, accuracy = score_rankings(rows, done.config.recipe, trial.plan.truth)
    assert (params["score"], params["tau"], params["spearman"]) == (
        "params",
        pytest.approx(1),
        pytest.approx(1),
    )
    assert (accuracy["score"], accuracy["candidates"]) == ("accuracy", 10)


def test_a_score_against_its_contrary_ranks_backwards(tmp_path: Path) -> None:
    config = ranked(tmp_path, truth="smallness", scores=["params"])
    done = finish(config)
    rows = list(Ledger(config.folder / "ranking").rows())
    (found,) = score_rankings(rows, config.recipe, ready(config).plan.truth)
    assert found["tau"] == pytest.approx(-1)
    assert done.said[-1].asked == 3


def test_in_a_ranking_each_score_has_its_own_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "accuracy", lambda genes: True)
    config = ranked(tmp_path)
    trial = ready(config)
    reports(trial)
    rows = list(Ledger(config.folder / "ranking").rows())
    assert [set(row.metrics) for row in rows] == [{"params"}] * 10
    params, accuracy = score_rankings(rows, config.recipe, trial.plan.truth)
    assert (params["tau"], params["failed"]) == (pytest.approx(1), [])
    assert (accuracy["tau"], accuracy["failed"]) == (
        None,
        [["accuracy: ValueError: it does not like it", 10]],
    )


def test_a_ranking_goes_on_in_the_middle(tmp_path: Path) -> None:
    done = finish(ranked(tmp_path))
    expected = Ledger(done.config.folder / "ranking").digest()
    config = new_search(done.config.recipe)
    stages = [report.stage for report in done.said]
    started(config, stages.index("ranking") + 2)
    assert len(list(Ledger(config.folder / "ranking").rows())) == 6
    trial = ready(config)
    assert [report.stage for report in reports(trial)] == ["ranking", "ranking", "done"]
    assert Ledger(config.folder / "ranking").digest() == expected
    assert trial.pool.digest() == done.weights


# The network -----------------------------------------------------------------------------------------------


def best_network(done: Done) -> tuple[Network, dict[str, object]]:
    return load_network(done.config.folder / "best")


def test_the_best_network_does_what_the_path_did(whole: Done) -> None:
    network, about = best_network(whole)
    best = max(whole.rows, key=lambda row: (row.metrics["accuracy"], -row.candidate.ask_index))
    assert about["genes"] == list(best.candidate.genes)
    assert about["metrics"] == best.metrics
    assert about["classes"] == [str(digit) for digit in range(10)]
    assert network.architecture == SPACE.decode(best.candidate.genes)
    # Recalibrated as the score did, it has the very accuracy that was recorded.
    batches = open_data(whole.config.recipe.data).batches("validation", 64)
    with torch.no_grad():
        assert validate(network, batches).accuracy == best.metrics["accuracy"]


def test_the_best_network_gives_the_logits_of_the_path(whole: Done) -> None:
    network, _ = best_network(whole)
    trial = ready(whole.config)
    assert isinstance(trial.pool, LocalPool) and trial.pool.replica.trainer is not None
    supernet = trial.pool.replica.trainer.supernet
    genes = tuple(json.loads((whole.config.folder / "best" / "network.json").read_text())["about"]["genes"])
    bench = trial.pool.replica.bench
    images = [bench.batch(number)[0] for number in range(4)]
    (x, _), *_ = bench.validation
    with recalibrated(supernet, images, genes) as forward:
        expected = forward(x)
    with torch.no_grad():
        torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-5)


def test_the_best_network_of_a_search_that_trained_on_a_gpu(
    tmp_path: Path, whole: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings of the training, such as mixed precision, mean nothing to who saves the network."""
    trial = ready(new_search(tiny_recipe(tmp_path)))
    while not trial.loop.finished:
        trial.step()
    supernet = trial.config.recipe.supernet
    assert supernet is not None
    mixed = {"supernet": supernet.model_copy(update={"precision": "mixed"})}
    monkeypatch.setattr(trial, "config", trial.config.model_copy(
        update={"recipe": trial.config.recipe.model_copy(update=mixed)}
    ))  # fmt: skip
    assert trial.step().done
    weights = (trial.config.folder / "best" / "network.safetensors").read_bytes()
    assert weights == (whole.config.folder / "best" / "network.safetensors").read_bytes()


def test_without_a_usable_candidate_there_is_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(replica: Replica, genes: Genes) -> object:
        raise MemoryError("none left")

    monkeypatch.setattr("trainers.scores.accuracy.Validation.__call__", fail)
    done = finish(new_search(tiny_recipe(tmp_path)))
    assert all(row.status == "failed" for row in done.rows)
    assert done.said[-1].best is None
    assert not (done.config.folder / "best").exists()


# Latency ---------------------------------------------------------------------------------------------------


def test_a_measured_latency_is_kept_and_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    offset = 0.0

    def fake(architecture: Architecture, image: Shape, device: str) -> float:
        measured.append(architecture.digest)
        return offset + architecture.complexity().macs / 1e6

    monkeypatch.setattr(cluster.search_plan, "build_network", lambda architecture, seed: architecture)
    monkeypatch.setattr(cluster.search_plan, "latency_ms", fake)
    macs = sorted(SPACE.cost(genes).macs for genes in SPACE.enumerate())
    limit = macs[len(macs) // 2] / 1e6
    config = table_recipe(tmp_path, constraints=[{"cost": "latency_ms", "at_most": limit}])
    measured.clear()
    started(config, 3)
    book = json.loads((config.folder / "latencies.json").read_text())
    assert len(book) == len(measured) == len(set(measured))
    kept = list(Run(config.folder).ledger.rows())
    assert len(kept) == 9
    assert all(row.metrics["latency_ms"] == row.cost.macs / 1e6 <= limit for row in kept)
    # What is measured from here on differs: the machine is slower now. The past does not change.
    offset = limit / 10
    trial = ready(config)
    reports(trial)
    assert len(measured) == len(set(measured)) > len(book)
    rows = list(trial.run.ledger.rows())
    assert rows[:9] == kept
    assert all(row.metrics["latency_ms"] <= limit for row in rows)
    later = dict(
        (tuple(genes), value) for genes, value in json.loads((config.folder / "latencies.json").read_text())
    )
    assert all(later[tuple(genes)] == value for genes, value in book)
