"""A search whose space shrinks while its supernets train: interrupted anywhere, with any number of supernets
that vote, it drops the same operators and ends as the undisturbed one."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import ValidationError

from cluster.checkpoints import CheckpointStore
from cluster.export import export_network
from cluster.local_search import drive_local_search
from cluster.network_file import load_network
from cluster.run import Run
from cluster.search_messages import SearchConfig, SearchReport
from cluster.search_recipe import SearchRecipe
from cluster.shrinking import RUNGS, Course, Rung, Rungs
from cluster.supernet_checkpoints import supernet_folder
from networks.errors import UserError
from networks.spaces.narrowed import Operator, narrowed
from tests.cluster.choices import TINY, chain_space, new_search, ready, tiny_recipe

SPACE = chain_space()
SUPERNET = {"steps": 4, "batch_size": 16, "paths_per_step": 2, "final_lr": 0.01}
SHRINKING = {
    "drop": 3,
    "until": 100,
    "steps": 2,
    "then": 3,
    "exact": 0,
    "children": 4,
    "score": "angle_searched",
}


def shrinking_recipe(
    storage: Path, shrinking: dict[str, object] | None = None, **changes: object
) -> SearchRecipe:
    """6,561 candidates; rungs at steps 4, 6, 8, … until 100 or fewer are left, three steps, and the
    search."""
    return tiny_recipe(storage, supernet=SUPERNET, shrinking={**SHRINKING, **(shrinking or {})}, **changes)


class Done(NamedTuple):
    config: SearchConfig
    rungs: list[Rung]
    ledger: str
    weights: str
    said: list[SearchReport]


def weights(config: SearchConfig) -> str:
    """Of the last checkpoints of all its supernets."""
    stores = sorted(path.name for path in config.folder.glob("supernet*"))
    found = []
    for name in stores:
        store = CheckpointStore(config.folder / name)
        newest = store.newest()
        assert newest is not None
        found.append((name, newest.epoch, json.loads(store._files(newest.epoch)[1].read_text())["weights"]))
    return str(found)


def rungs_of(config: SearchConfig) -> list[Rung]:
    """Without their times."""
    return [rung.model_copy(update={"time": 0}) for rung in Rungs(config.folder / RUNGS).read()]


def finish(config: SearchConfig) -> Done:
    said: list[SearchReport] = []
    drive_local_search(config, said.append)
    return Done(config, rungs_of(config), Run(config.folder).ledger.digest(), weights(config), said)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return finish(new_search(shrinking_recipe(tmp_path_factory.mktemp("whole") / "runs")))


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Two supernets vote."""
    return finish(new_search(shrinking_recipe(tmp_path_factory.mktemp("voted") / "runs", {"supernets": 2})))


def test_it_trains_drops_and_searches_what_is_left(whole: Done) -> None:
    assert [rung.step for rung in whole.rungs] == [4 + 2 * number for number in range(len(whole.rungs))]
    assert [len(rung.dropped) for rung in whole.rungs] == [3] * len(whole.rungs)
    assert whole.rungs[-1].size <= 100 < whole.rungs[-2].size
    left = narrowed(SPACE, (one for rung in whole.rungs for one in rung.dropped))
    assert whole.rungs[-1].kept == left.kept and whole.rungs[-1].size == left.size
    first = whole.rungs[0]
    assert len(first.operators) == 24 and all(len(one.scores) == 1 for one in first.operators)
    lowest = sorted(first.operators, key=lambda one: (one.scores[0] or 0.0, one.operator))[:3]
    assert {one.operator for one in lowest} == set(first.dropped)
    rows = list(Run(whole.config.folder).ledger.rows())
    assert [row.candidate.phase for row in rows] == ["search"] * 12 + ["random"] * 12
    assert all(left.legal(row.candidate.genes) for row in rows)
    last = whole.said[-1]
    assert (last.stage, last.step, last.left) == ("done", 4 + 2 * (len(whole.rungs) - 1) + 3, left.size)
    sizes = [report.left for report in whole.said]
    assert sizes == sorted(sizes, reverse=True)
    stages = list(dict.fromkeys(report.stage for report in whole.said))
    assert stages == ["training", "shrinking", "search", "random", "done"]


def test_the_best_is_a_network(whole: Done, tmp_path: Path) -> None:
    best, _ = load_network(whole.config.folder / "best")
    run = Run(whole.config.folder)
    exported = export_network(run, None, tmp_path / "exported")
    again, _ = load_network(tmp_path / "exported")
    assert exported["trained"] == whole.said[-1].step
    assert all(
        (a == b).all() for a, b in zip(best.state_dict().values(), again.state_dict().values(), strict=True)
    )
    stored = CheckpointStore(run.folder / "supernet").newest()
    assert stored is not None
    gone = [
        f".options.0-1.{SPACE.options[gene][option].operation}." for gene, option in whole.rungs[0].dropped
    ]
    stages = [f"supernet.stages.{site.stage}" for site in sorted(SPACE.sites)]
    names = [stages[gene] + name for (gene, _), name in zip(whole.rungs[0].dropped, gone, strict=True)]
    assert not any(name.startswith(lost) for name in stored.tensors for lost in names), (
        "gone from what is stored"
    )


class Stop(KeyboardInterrupt):
    pass


def interrupted(config: SearchConfig, after: int) -> bool:
    """Drive it until so many reports; whether it was interrupted."""
    heard = 0

    def listen(report: SearchReport) -> None:
        nonlocal heard
        heard += 1
        if heard == after:
            raise Stop

    try:
        drive_local_search(config, listen)
    except Stop:
        return True
    return False


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("number", [1, 2])
def test_interrupted_again_and_again_it_ends_the_same(
    every: int, number: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    expected: Done = request.getfixturevalue("whole" if number == 1 else "voted")
    config = new_search(shrinking_recipe(tmp_path, {"supernets": number}))
    times = 0
    while interrupted(config, every + 2 * number):
        times += 1
        assert times < 80
    found = finish(config)
    assert times > 2
    assert (found.rungs, found.ledger, found.weights) == (expected.rungs, expected.ledger, expected.weights)


def test_a_resumed_supernet_that_is_rungs_behind_catches_up(tmp_path: Path, whole: Done) -> None:
    """Its newest checkpoints are lost; what was decided is not."""
    folder = tmp_path / "run"
    shutil.copytree(whole.config.folder, folder)
    shutil.rmtree(folder / "supernet")
    shutil.rmtree(folder / "ledger")
    found = finish(whole.config.model_copy(update={"folder": folder}))
    assert (found.rungs, found.ledger, found.weights) == (whole.rungs, whole.ledger, whole.weights)


def test_supernets_differ_and_vote_by_mean_rank(voted: Done, whole: Done) -> None:
    first = voted.rungs[0]
    own, other = zip(*(one.scores for one in first.operators), strict=True)
    assert list(own) == [one.scores[0] for one in whole.rungs[0].operators], (
        "the first is the one that is alone"
    )
    assert own != other and all(len(one.scores) == 2 for one in first.operators)
    assert sorted(path.name for path in voted.config.folder.glob("supernet*")) == [
        "supernet",
        supernet_folder(1),
    ]
    ranks = [sum(sorted(some).index(score) for some, score in ((own, a), (other, b)))
             for a, b in (one.scores for one in first.operators)]  # fmt: skip
    dropped = [rank for rank, one in zip(ranks, first.operators, strict=True) if one.dropped]
    assert max(dropped) <= sorted(ranks)[3]


def test_reset_in_a_live_pool_and_set_up_anew_are_the_same(tmp_path: Path) -> None:
    """With angles re-based in between."""
    ends = []
    for anew in (False, True):
        config = new_search(shrinking_recipe(tmp_path / str(anew), {"rebase_after": 4}))
        trial = ready(config)
        votes = []
        dropped: list[tuple[Operator, ...]] = []
        while len(dropped) < 3:
            while trial.vote is None:
                trial.step()
            votes.append(dict(trial.vote))
            dropped.append(tuple(sorted(trial.vote, key=lambda one: (trial.vote or {})[one])[:3]))
            config = config.model_copy(update={"dropped": tuple(dropped)})
            if anew:
                trial.close()
                trial = ready(config)
            else:
                pool = trial.pool
                trial.reset(config)
                assert trial.pool is pool
        ends.append((votes, trial.pool.digest()))
        trial.close()
    assert ends[0] == ends[1]
    plain = ready(new_search(shrinking_recipe(tmp_path / "plain")))
    course = Course(shrinking_recipe(tmp_path), SPACE, tuple(dropped))
    assert not any(course.rebases(rung) for rung in range(3)), "unless asked to"
    rebasing = Course(shrinking_recipe(tmp_path, {"rebase_after": 4}), SPACE, tuple(dropped))
    assert [rebasing.rebases(rung) for rung in range(3)] == [False, True, False]
    plain.close()


def test_another_searchs_configuration_is_set_up_whole(tmp_path: Path) -> None:
    """Ray Tune gives the process of one trial to another."""
    first = new_search(shrinking_recipe(tmp_path / "a"))
    trial = ready(first)
    trial.step()
    pool = trial.pool
    trial.reset(first.model_copy(update={"supernet": 1}))
    assert trial.pool is not pool and trial.pool.step == 0
    trial.close()


# What is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"supernet": None}, "shrinking.*without a supernet"),
        ({"supernet": {**SUPERNET, "final_lr": 0.0}}, r"supernet\.final_lr.*above 0 with shrinking"),
        ({"shrinking": {**SHRINKING, "score": "angel"}}, "angel.*angle"),
        ({"shrinking": {**SHRINKING, "drop": 0}}, "drop"),
        ({"shrinking": {**SHRINKING, "drop": "all"}}, "drop"),
    ],
)
def test_recipes_that_cannot_shrink(changes: dict[str, object], said: str) -> None:
    raw: dict[str, Any] = {**TINY, "supernet": SUPERNET, "shrinking": SHRINKING, **changes}
    with pytest.raises((ValidationError, UserError), match=said):
        SearchRecipe.model_validate({name: value for name, value in raw.items() if value is not None})


def test_a_recipe_that_does_not_shrink_has_the_digest_of_before(tmp_path: Path) -> None:
    assert "shrinking" not in tiny_recipe(tmp_path).model_dump()
    one, two = shrinking_recipe(tmp_path), shrinking_recipe(tmp_path, {"patience_s": 5.0})
    assert one.digest == two.digest != tiny_recipe(tmp_path, supernet=SUPERNET).digest


@pytest.fixture
def copied(tmp_path: Path, whole: Done) -> Iterator[SearchConfig]:
    folder = tmp_path / "run"
    shutil.copytree(whole.config.folder, folder)
    yield whole.config.model_copy(update={"folder": folder})


def test_an_altered_decision_is_refused(copied: SearchConfig) -> None:
    path = copied.folder / RUNGS / "00000001.json"
    path.write_text(path.read_text().replace('"dropped": true', '"dropped": false', 1))
    with pytest.raises(UserError, match="altered after its commit"):
        drive_local_search(copied, lambda report: None)


def test_lost_decisions_are_noticed(copied: SearchConfig) -> None:
    for path in sorted((copied.folder / RUNGS).glob("*.json"))[-2:]:
        path.unlink()
    with pytest.raises(UserError, match=r"shrinking.*decisions that were made when the supernet was saved"):
        drive_local_search(copied, lambda report: None)


def test_constraints_bind_what_is_left(tmp_path: Path) -> None:
    low, high = SPACE.extremes("macs")
    limit = low + (high - low) // 4
    config = new_search(
        shrinking_recipe(
            tmp_path, {"until": 2, "score": "macs"}, constraints=[{"cost": "macs", "at_most": limit}]
        )
    )
    found = finish(config)
    left = narrowed(SPACE, (one for rung in found.rungs for one in rung.dropped))
    assert left.extremes("macs")[0] <= limit, (
        "the cheap operators score lowest, and yet something cheap is left"
    )
    assert all(row.cost.macs <= limit for row in Run(config.folder).ledger.rows())
