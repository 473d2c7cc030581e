"""Pictures of a search: leaders, learning curves, damage. Made without pyplot: no global state."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from io import BytesIO

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cluster.files import AnyPath, make_folder, write_atomically
from cluster.layout import Point
from cluster.ledger import Row
from trainers.damage import Damage

INK, SOFT, FAINT = "#1f2933", "#52606d", "#cbd2d9"
SETTING_COLOURS = ("#0967d2", "#d9822b", "#1b998b", "#a23b72", "#6b7a8f", "#8a6d3b")


def new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def draw_leaders(rows: Iterable[Row], metric: str = "validation_accuracy") -> Figure:
    """The metric of each setting over its seeds: a dot a candidate, mean and sample deviation beside them
    (the paper's Fig. 3). Only candidates that were trained to the end count; a setting without one is
    named, and has no dots."""
    finals = {row.candidate.ask_index: row for row in rows if row.final}
    values: dict[str, list[float]] = {}
    kinds: dict[str, str] = {}
    for row in (finals[ask] for ask in sorted(finals)):
        setting = str(row.names.get("setting", "all candidates"))
        kinds.setdefault(setting, str(row.names.get("generator", setting)))
        scores = values.setdefault(setting, [])
        if row.status == "ok" and not math.isnan(row.metrics.get(metric, math.nan)):
            scores.append(row.metrics[metric])
    settings = sorted(values, key=lambda setting: list(dict.fromkeys(kinds.values())).index(kinds[setting]))
    figure = new_figure(max(4.8, 1.2 + 0.6 * len(settings)), 4.6)
    axes = figure.add_subplot()
    colours = dict(zip(dict.fromkeys(kinds.values()), SETTING_COLOURS * len(kinds), strict=False))
    for place, setting in enumerate(settings):
        scores, colour = values[setting], colours[kinds[setting]]
        if not scores:
            continue
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        mean = statistics.fmean(scores)
        axes.errorbar(
            place + 0.14, mean, yerr=spread, fmt="D", markersize=5.5, color=colour, elinewidth=1.6,
            capsize=4, zorder=3,
        )  # fmt: skip
        axes.scatter([place - 0.14] * len(scores), scores, s=22, color=colour, alpha=0.55, linewidths=0)
    axes.set_xticks(range(len(settings)))
    names = [setting if values[setting] else f"{setting}, none finished" for setting in settings]
    turned = len(settings) > 4
    axes.set_xticklabels(
        names,
        rotation=45 if turned else 0,
        rotation_mode="anchor",
        ha="right" if turned else "center",
        fontsize=8,
    )
    axes.set_xlim(-0.6, len(settings) - 0.4)
    marks = [
        Line2D([], [], marker="o", linestyle="", color=SOFT, alpha=0.6, markersize=5, label="one seed"),
        Line2D([], [], marker="D", linestyle="-", color=SOFT, markersize=5, label="mean ± deviation"),
    ]
    axes.legend(handles=marks, frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    _dress(axes, metric)
    figure.tight_layout()
    return figure


def draw_curves(rows: Iterable[Row], metric: str = "validation_accuracy") -> Figure:
    """The metric of every candidate against the epoch. Coloured: trained to the end, the best one thick.
    Grey with a bar: stopped early. Grey with a cross: failed. A candidate without a final row runs on."""
    curves: dict[str, list[Point]] = {}
    last: dict[str, Row] = {}
    for row in rows:
        points = curves.setdefault(row.candidate.id, [])
        points += [(point["epoch"], point[metric]) for point in row.curve if metric in point]
        last[row.candidate.id] = row
    figure = new_figure(7.2, 4.4)
    axes = figure.add_subplot()
    finished = {key: row for key, row in last.items() if row.status == "ok" and curves[key]}
    best = max(finished, key=lambda key: finished[key].metrics.get(metric, -math.inf), default=None)
    kinds = list(dict.fromkeys(str(row.names.get("generator", "candidates")) for row in last.values()))
    colours = dict(zip(kinds, SETTING_COLOURS * len(kinds), strict=False))
    for key, points in curves.items():
        x, y = [point[0] for point in points], [point[1] for point in points]
        if key in finished:
            colour = colours[str(last[key].names.get("generator", "candidates"))]
            width, alpha = (2.4, 1.0) if key == best else (1.1, 0.65)
            axes.plot(x, y, color=colour, linewidth=width, alpha=alpha, zorder=3 if key == best else 2)
        else:
            end = {"stopped": "|", "failed": "x"}.get(last[key].status, "")
            axes.plot(x, y, color=FAINT, linewidth=1, zorder=1)
            axes.plot(x[-1:], y[-1:], color=SOFT, alpha=0.6, marker=end, markersize=6, linestyle="", zorder=1)
    shown = dict.fromkeys(str(row.names.get("generator", "candidates")) for row in finished.values())
    marks = [Line2D([], [], color=colours[kind], label=kind) for kind in shown]
    for end, status in (("|", "stopped early"), ("x", "failed")):
        if any(row.status == status.split()[0] for row in last.values()):
            marks.append(Line2D([], [], color=FAINT, marker=end, markeredgecolor=SOFT, label=status))
    if best is not None:
        marks.insert(0, Line2D([], [], color=INK, linewidth=2.4, label=f"best: {finished[best].label}"))
    axes.legend(handles=marks, frameon=False, fontsize=8, loc="best")
    axes.set_xlabel("epoch", fontsize=9, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _dress(axes, metric)
    figure.tight_layout()
    return figure


def draw_damage(found: Sequence[Damage]) -> Figure:
    """The paper's Fig. 4: accuracy lost without a node against its out-degree, and without an edge against
    its target's in-degree. A dot a removal (hollow: it left a node without inputs), a line for the mean."""
    figure = new_figure(9.2, 4.2)
    panels = (("node", "out-degree of the removed node"), ("edge", "in-degree of the removed edge's target"))
    for axes, (kind, title) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        some = [one for one in found if one.kind == kind]
        colour = SETTING_COLOURS[0 if kind == "node" else 2]
        seen: Counter[int] = Counter()
        for orphaning in (False, True):
            chosen = [one for one in some if one.orphaning == orphaning]
            aside = []
            for one in chosen:  # side by side, in the order of the study, so that equal losses stay apart
                aside.append(0.06 * (seen[one.degree] % 9 - 4))
                seen[one.degree] += 1
            axes.scatter(
                [one.degree + shift for one, shift in zip(chosen, aside, strict=True)],
                [one.loss for one in chosen], s=16, alpha=0.55,
                facecolors="none" if orphaning else colour, edgecolors=colour, linewidths=0.8,
            )  # fmt: skip
        degrees = sorted({one.degree for one in some})
        means = [statistics.fmean(one.loss for one in some if one.degree == degree) for degree in degrees]
        axes.plot(degrees, means, color=INK, marker="D", markersize=5, linewidth=1.4, zorder=3)
        axes.axhline(0, color=SOFT, linewidth=0.8)
        axes.set_xlabel(title, fontsize=9, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _dress(axes, "accuracy lost")
    figure.axes[1].set_ylabel("")
    marks = [
        Line2D([], [], marker="o", linestyle="", color=SOFT, markersize=4, label="one removal"),
        Line2D(
            [],
            [],
            marker="o",
            linestyle="",
            markerfacecolor="none",
            color=SOFT,
            markersize=4,
            label="it left a node without inputs",
        ),
        Line2D([], [], marker="D", color=INK, markersize=5, label="mean"),
    ]
    figure.legend(handles=marks, frameon=False, fontsize=8, loc="upper center", ncols=3)
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    return figure


def _dress(axes: Axes, metric: str) -> None:
    axes.set_ylabel(metric.replace("_", " "), fontsize=9, color=INK)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def save_figure(figure: Figure, path: AnyPath) -> None:
    """Write a PNG or SVG, by the name's ending. Equal figures give equal files."""
    make_folder(path.parent)
    kind = path.name.rpartition(".")[2]
    stamp = {"Date": None} if kind == "svg" else {"Software": None}
    drawn = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "weft"}):
        figure.savefig(drawn, format=kind, dpi=150, metadata=stamp)
    write_atomically(path, drawn.getvalue())
