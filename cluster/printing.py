"""What the command line prints: its two consoles, and the tables of reports."""

import json
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.files import AnyPath
from cluster.tables import plain_table, ranking_table, search_tables, times_line
from networks.errors import CannotGoOn

out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, soft_wrap=True, stderr=True)


def print_grid(found: dict[str, Any]) -> None:
    """What a grid would search, and how long that takes."""
    sizes = ", ".join("x".join(map(str, size)) for size in found["stage_sizes"])
    out.print(f"{found['recipe']}: {found['candidates']} candidates; images {tuple(found['image'])}, "
              f"{found['classes']} classes")  # fmt: skip
    out.print(f"stages of {found['stage_nodes']} nodes; stem and stages write {sizes}")
    table = plain_table("setting", "graphs", "params (M)", "MACs (M)")
    for one in found["settings"]:
        table.add_row(
            one["setting"],
            str(one["graphs"]),
            f"{one['params_mean'] / 1e6:.3f} ± {one['params_deviation'] / 1e6:.3f}",
            f"{one['macs_mean'] / 1e6:.2f} ± {one['macs_deviation'] / 1e6:.2f}",
        )
    out.print(table)
    out.print(f"rungs at epochs {found['rungs']}; {found['epochs_planned']} epochs in all")
    where = "this machine's GPU" if found["measured_on"] == "cuda" else "one CPU core of this machine"
    pace = f"training takes {found['seconds_per_1000_images']:.1f} s for 1,000 images on {where}"
    if found["hours_of_one_worker"] is None:
        out.print(f"{pace} (the data was not opened: the recipe gives image and classes itself)")
    else:
        out.print(f"{pace}: about {found['hours_of_one_worker']:.2f} hours of one worker")


def print_damage(found: dict[str, Any]) -> None:
    """What each kind of damage costs."""
    out.print(f"undamaged: {100 * found['undamaged']:.2f} % of the validation images; losses in points")
    for kind, degree in (("node", "nodes by out-degree"), ("edge", "edges by target's in-degree")):
        table = plain_table(degree, "number", "mean loss", "largest", "orphaning")
        for row in found[f"{kind}s_by_degree"]:
            table.add_row(
                str(row["degree"]), str(row["number"]), f"{100 * row['mean_loss']:.2f}",
                f"{100 * row['largest_loss']:.2f}", str(row["orphaning"]),
            )  # fmt: skip
        out.print(table)


def print_found(found: dict[str, Any], limit: int) -> None:
    """The tables of a report."""
    if "frontier" not in found:
        out.print(ranking_table(found, limit, out))
        print_failures(found)
        return
    for table in search_tables(found, limit):
        out.print(table)
    for reason, number in found["failures"][:5]:
        out.print(f"{number} failed: {reason}", markup=False)
    print_score_failures(found["scores"])
    if found["times"]:
        out.print(times_line(found["times"]), highlight=False)


def print_score_failures(scores: Sequence[dict[str, Any]]) -> None:
    """Which scores of a ranking could not be computed, and why."""
    for one in scores:
        for reason, number in one.get("failed", [])[:3]:  # reports of earlier versions have none
            out.print(f"{one['score']} failed {number} times: {reason}", markup=False)


def print_failures(found: dict[str, Any]) -> None:
    """Why candidates failed, each reason once."""
    reasons = Counter(row["reason"] for row in found["ranking"] if row["status"] == "failed")
    for reason, number in reasons.most_common(5):
        out.print(f"{number} failed: {reason}", markup=False)
    if len(reasons) > 5:
        out.print(f"{len(reasons) - 5} more reasons are in the report")


def print_json(found: dict[str, Any]) -> None:
    print(json.dumps(found))


def command() -> str:
    """How this program was started, so that what is printed can be typed."""
    own, found = Path(sys.argv[0]), shutil.which("weft")
    if own.name != "weft" or (found is not None and Path(found).resolve() == own.resolve()):
        return "weft"
    return shlex.quote(str(relative(own.absolute())))


def relative(path: AnyPath) -> AnyPath:
    if isinstance(path, Path) and path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd())
    return path


def print_stop(error: CannotGoOn, again: str) -> None:
    """What happened and how to go on, in one line."""
    text = " ".join(str(error).split())
    err.print(f"weft: {text}; what is committed is kept. To go on: {again}", markup=False)
