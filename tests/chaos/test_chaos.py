"""One round of each kind of harm, on short searches, and what the rounds are made of."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray")

from networks.counters import counter_random
from tests.chaos.disturbances import DISTURBANCES
from tests.chaos.outages import altered
from tests.chaos.progress import Mark, Progress
from tests.chaos.results import Result, Results, Undisturbed, page
from tests.chaos.rounds import goes_with, moment, pairs, plan, planned, play, play_undisturbed
from tests.chaos.site import Site, site
from tests.chaos.stage import Tempo
from tests.chaos.subjects import QUICK, SubjectName

SEED = 0
QUICKLY = Tempo(quick=True)
# A kind that can be done to several searches is done to each in turn.
CHOSEN = [
    (name, one.subjects[place % len(one.subjects)]) for place, (name, one) in enumerate(DISTURBANCES.items())
]


@pytest.fixture(scope="module")
def place() -> Iterator[Site]:
    """One for all rounds: each has to leave it as it was."""
    with site() as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(place: Site) -> dict[SubjectName, Undisturbed]:
    names = dict.fromkeys(subject for _, subject in CHOSEN)
    return {name: play_undisturbed(place, QUICK[name], QUICKLY) for name in names}


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.parametrize(("name", "subject"), CHOSEN)
def test_a_search_survives(
    name: str, subject: SubjectName, place: Site, undisturbed: dict[SubjectName, Undisturbed]
) -> None:
    number = list(DISTURBANCES).index(name)
    chosen = planned(SEED, number, subject, (name,), counter_random(SEED, "chaos", number, "plan"))
    result = play(place, chosen, QUICK[subject], undisturbed[subject], QUICKLY)
    print(f"{result.seconds:.0f} s; to recover {result.recovered} s")
    assert result.ok, "\n".join([*result.wrong, result.log])
    assert (result.lost, result.duplicated, result.asked) == (0, 0, undisturbed[subject].asked)


def test_rounds_follow_from_the_seed_and_miss_nothing() -> None:
    number = len(pairs())
    once = [plan(3, one) for one in range(1, number + 1)]
    assert once == [plan(3, one) for one in range(1, number + 1)]
    assert sorted((one.names[0], one.subject) for one in once) == sorted(pairs())
    again = [plan(3, one) for one in range(number + 1, 2 * number + 1)]
    assert [one.names[0] for one in again] != [one.names[0] for one in once]
    together = {one.names for one in once + again if len(one.names) == 2}
    assert together and all(len(set(names)) == 2 for names in together)
    assert not goes_with("driver", "head", "grid") and not goes_with("s3-503", "s3-500", "grid")
    assert goes_with("driver", "node", "grid") and not goes_with("replica", "node", "grid")
    assert [one.parts for one in once] != [plan(4, one).parts for one in range(1, number + 1)]


def result(number: int, done: str = "replica", **changes: object) -> Result:
    values: dict[str, object] = {
        "round": number, "seed": 3, "subject": "search", "done": (done,), "commit": "c", "when": "w",
        "after": ((2, 0, 0.5),), "asked": 9, "lost": 0, "duplicated": 0, "recovered": (1.5 * number,),
        "seconds": 30.0, "attempts": 1, "synced": False, "wrong": (), "hardware": "h", **changes,
    }  # fmt: skip
    return Result.model_validate(values)


def test_results_are_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "results" / "r.jsonl"
    results = Results(path)
    assert results.next_round == 1
    quiet = Undisturbed(
        key="k", subject="grid", commit="c", when="w", asked=9, ledger="l", weights="w", seconds=1,
        marks=((0, 0, 0),),
    )  # fmt: skip
    for line in (result(1), quiet, result(2, wrong=("lost | all",), lost=2)):
        results.add(line)
    found = Results(path)
    assert found.next_round == 3 and list(found.failed) == [2]
    assert (found.rounds, found.undisturbed) == (results.rounds, {"k": quiet})
    said = {name: one.said for name, one in DISTURBANCES.items()}
    text = page(found, said)
    assert "2 rounds, 1 as they must be. Candidates lost: 2, duplicated: 0." in text
    assert "| SIGKILL to a replica | 2 | 1 | 2 | 0 | 2.2 | 3.0 |" in text
    assert "| 2 | 3 | search | replica | step 2, segment 0, 0.5 s | 1 | 3.0 | 30 | lost / all |" in text
    found.add(result(2))
    assert not found.failed and found.next_round == 3
    assert "3 rounds, 2 as they must be." in page(found, said), "what went wrong once stays in the table"
    with path.open("a") as file:
        file.write('{"kind": "round"')
    with pytest.raises(ValueError, match="no result"):
        Results(path)


def test_a_moment_is_a_part_of_the_undisturbed_search() -> None:
    quiet = Undisturbed(
        key="k", subject="grid", commit="c", when="w", asked=9, ledger="l", weights="w", seconds=1,
        marks=((0, 0, 0), (4, 100, 0), (10, 100, 3)),
    )  # fmt: skip
    assert moment(quiet, 0.0) == (Mark(0, 0, 0), 0)
    assert moment(quiet, 0.5) == (Mark(4, 100, 0), 1)
    assert moment(quiet, -0.03) == (Mark(0, 0, 0), 3)


@pytest.mark.parametrize("body", [b'{"rows": [1e5], "sha256": "abc"}', bytes(range(256))])
def test_what_is_altered_means_something_else(body: bytes) -> None:
    sizes = Counter(len(altered(body, random.Random(seed))) == len(body) for seed in range(50))
    assert min(sizes[True], sizes[False]) > 10
    assert all(altered(body, random.Random(seed)) != body for seed in range(50))
    assert b"1E5" not in {altered(b"1e5", random.Random(seed)) for seed in range(200)}, "the same number"


def test_progress_is_what_is_committed(tmp_path: Path) -> None:
    progress = Progress(None)
    assert not progress.look(tmp_path)
    for name in ("ledger/00000000.json", "supernet/epoch-000002.json", "supernet/epoch-000040.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert progress.look(tmp_path) and not progress.look(tmp_path)
    (tmp_path / "ledger" / "00000001.json.draft").write_text("")
    assert not progress.look(tmp_path)
    at, steps, segments = progress.marks[-1]
    assert (steps, segments) == (40, 1)
    (tmp_path / "supernet" / "epoch-000040.json").write_text("anew")
    assert progress.look(tmp_path)
    (tmp_path / "ledger" / "00000000.json").write_text("altered")
    progress.disregard(tmp_path)
    assert not progress.look(tmp_path)
    assert progress.seconds_to_next(at) == progress.marks[-1].at - at
    assert progress.seconds_to_next(progress.marks[-1].at) is None
