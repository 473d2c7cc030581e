"""``python -m tests.chaos``: play rounds, add them to the file of results, and write the page anew."""

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

import pytest

from tests import conftest  # noqa: F401  (settings that must stand before ray or torch are imported)

# isort: split

from networks.counters import counter_random
from tests.chaos.disturbances import DISTURBANCES
from tests.chaos.results import Result, Results, page
from tests.chaos.rounds import Plan, plan, planned, play, play_undisturbed
from tests.chaos.site import Survivors, site
from tests.chaos.stage import Tempo
from tests.chaos.subjects import QUICK, SUBJECTS


def interrupt(number: int, frame: FrameType | None) -> None:
    """Once: a second Ctrl-C shall not stop the cleaning up."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt


def one_round(results: Results, chosen: Plan, tempo: Tempo) -> Result:
    subject = (QUICK if tempo.quick else SUBJECTS)[chosen.subject]
    result: Result | None = None
    try:
        with site() as place:
            if subject.key not in results.undisturbed:
                results.add(play_undisturbed(place, subject, tempo))
            result = play(place, chosen, subject, results.undisturbed[subject.key], tempo)
    except Survivors as error:
        if result is None:
            raise
        result = result.model_copy(update={"wrong": (*result.wrong, str(error))})
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="how many more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("docs/reliability.jsonl"))
    parser.add_argument("--quick", action="store_true", help="shorter searches, as in CI")
    parser.add_argument("--log", action="store_true", help="print what was said, also where nothing is wrong")
    parser.add_argument("--again", action="store_true", help="the rounds that went wrong, instead of more")
    parser.add_argument("--only", choices=sorted(DISTURBANCES), help="this one instead of all in turn")
    parser.add_argument("--subject", choices=sorted(SUBJECTS), help="and to this search")
    options = parser.parse_args()
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, interrupt)
    results, wrong = Results(options.results), 0
    try:
        more = range(results.next_round, results.next_round + options.rounds)
        failed = results.failed
        for number in failed if options.again else more:
            chosen = plan(options.seed, number)
            rng = counter_random(options.seed, "chaos", number, "plan")
            if options.again:  # what a number is drawn to be changes with the searches that there are
                chosen = planned(options.seed, number, failed[number].subject, failed[number].done, rng)
            elif options.only:
                subject = options.subject or DISTURBANCES[options.only].subjects[0]
                chosen = planned(options.seed, number, subject, (options.only,), rng)
            print(f"round {number}: {' + '.join(chosen.names)}, {chosen.subject}", flush=True)
            try:
                result = one_round(results, chosen, Tempo(options.quick))
            except pytest.skip.Exception as reason:
                print(f"  left out: {reason}")
                continue
            wrong += not result.ok
            print(f"  {'; '.join(result.wrong) or 'as it must be'}")
            print(f"  {result.seconds:.0f} s in all; to recover: {result.recovered} s", flush=True)
            if options.log or not result.ok:
                print(result.log)
            results.add(result if result.wrong else result.model_copy(update={"log": ""}))
    except KeyboardInterrupt:
        print(f"stopped; {len(results.rounds)} rounds are recorded")
        return 130
    finally:
        said = {one.name: one.said for one in DISTURBANCES.values()}
        options.results.with_suffix(".md").write_text(page(results, said))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
