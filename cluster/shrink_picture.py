"""A picture of a space that shrinks: operators by choices, shaded by score, crossed out when they were
dropped."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import scipy
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from cluster.pictures import FAINT, INK, SOFT, new_figure
from cluster.shrinking import Rung
from cluster.tables import approximate
from networks.spaces.choices import ChoiceSpace

SHADES = mpl.colormaps["YlGnBu"]
MOST_PANELS = 12
CELL, HEAD, MARGINS, WIDEST_TITLE = 0.24, 0.6, 2.0, 2.9  # inches


def draw_shrinking(space: ChoiceSpace, rungs: Sequence[Rung], score: str) -> Figure:
    """A panel a rung, at most twelve: the first, the last, and others evenly between.

    A cell is an option of a choice; the darker, the higher its score among those of the rung (by rank; the
    mean over supernets). A cross: dropped at this rung. Empty: dropped before. A ring: the last of its
    choice. A dot: that choice has no such option.
    """
    shown = [round(i) for i in np.linspace(0, len(rungs) - 1, min(MOST_PANELS, len(rungs)))]
    words = list(dict.fromkeys(option.word for some in space.options for option in some))
    genes = len(space.options)
    panel = max(WIDEST_TITLE, genes * CELL)
    columns = max(1, min(len(shown), int(12 // panel)))
    rows = -(-len(shown) // columns)
    figure = new_figure(columns * panel + MARGINS, rows * (HEAD + len(words) * CELL))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    for axes, number in zip(panels, shown, strict=False):
        rung = rungs[number]
        shades = np.full((len(words), genes), np.nan)
        ranks = _ranks(rung)
        for one, rank in zip(rung.operators, ranks, strict=True):
            gene, option = one.operator
            shades[words.index(space.options[gene][option].word), gene] = rank
        axes.imshow(shades, cmap=SHADES, norm=Normalize(0, 1), aspect="auto")
        scored = {one.operator for one in rung.operators}
        for gene, some in enumerate(space.options):
            there = {option.word for option in some}
            for place, word in enumerate(words):
                if word not in there:
                    axes.plot(gene, place, marker=".", markersize=2, color=FAINT)
        for gene, options in enumerate(rung.kept):
            for option in options:
                if (gene, option) not in scored:  # the last of its choice
                    place = words.index(space.options[gene][option].word)
                    axes.plot(gene, place, marker="o", markersize=5, color=INK, fillstyle="none")
        for gene, option in rung.dropped:
            place = words.index(space.options[gene][option].word)
            axes.plot(gene, place, marker="x", markersize=7, markeredgewidth=1.6, color="#d64545")
        title = (
            f"rung {number}, step {rung.step:,}: {len(rung.dropped)} dropped, {approximate(rung.size)} left"
        )
        axes.set_title(title, fontsize=8, color=INK, loc="left")
        axes.set_yticks(range(len(words)), words, fontsize=7)
        labels = [name.removeprefix("block ") for name in space.positions]
        axes.set_xticks(range(genes), labels, fontsize=6, rotation=0 if max(map(len, labels)) < 4 else 90)
        axes.tick_params(length=0, colors=SOFT)
        axes.spines[:].set_color(FAINT)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), SHADES), ax=list(panels), fraction=0.02, pad=0.01)
    bar.set_ticks([0, 1], labels=["lowest", "highest"], fontsize=7)
    bar.set_label(f"rank of {score}", fontsize=8, color=INK)
    return figure


def _ranks(rung: Rung) -> list[float]:
    """Of each operator, from 0 for the lowest score to 1: the mean over the supernets that voted."""
    columns = zip(*(one.scores for one in rung.operators), strict=True)
    ranks = np.mean(
        [scipy.stats.rankdata([-np.inf if x is None else x for x in column]) for column in columns], axis=0
    )
    return list((ranks - 1) / max(1, len(ranks) - 1))
