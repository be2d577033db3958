"""The page's plots, each an SVG element that takes its ink from the page (light and dark)."""

import io
import re
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toolkit.data.held_out import GROUPS
from toolkit.evaluate.statistics import Estimate
from toolkit.report.claims import KEPT_APART, kept_apart
from toolkit.report.results import Results
from toolkit.report.rows import FULL, ROWS, SETS, Parameters, Row
from toolkit.report.scores import Score, estimate

# Okabe and Ito's palette, which colour-blind readers can tell apart (https://jfly.uni-koeln.de/color/).
COLOURS = dict(
    zip(
        (row.name for row in ROWS),
        ("#0072B2", "#E69F00", "#CC79A7", "#D55E00", "#56B4E9", "#009E73", "#999999"),
        strict=True,
    )
)
MARKERS = dict(zip((row.name for row in ROWS), "^sDo<>X", strict=True))
# Stand-ins that the page's own colours replace.
_INK, _LINE = "#010203", "#040506"
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
}


def _svg(name: str, width: float, height: float, draw: Callable[[Figure], None]) -> str:
    """name also keeps the ids of several plots in one page apart. Sizes in inches."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure((width, height), layout="constrained")
        draw(figure)
        out = io.StringIO()
        figure.savefig(
            out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor").replace(_LINE, "var(--line)")
    # The page sets the width; the view box keeps the proportions.
    text = re.sub(r'<svg ([^>]*?) width="[^"]*"', rf'<svg role="img" aria-label="{name}" \1', text, count=1)
    return re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", text, count=1)


def _rows(results: Results, name: str) -> list[tuple[Row, list[Score]]]:
    return [(row, results.table[row.name, name]) for row in ROWS if (row.name, name) in results.table]


def _whiskers(estimates: Sequence[Estimate]) -> np.ndarray:
    """[2, count], lengths; an interval of percentiles need not reach its own value."""
    return np.maximum([[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]], 0)


def trade_off(results: Results, name: str) -> str:
    """Identity against prompt score with 95 % intervals; lines join points of one harmonic mean."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for row, scores in _rows(results, name):
            x, y = (estimate(scores, score) for score in ("identity", "prompt"))
            size, layer = (9, 4) if row.name == FULL else (6, 3)
            axes.errorbar(x.value, y.value, _whiskers([y]), _whiskers([x]), MARKERS[row.name], color=COLOURS[row.name],
                          ms=size, lw=1.4, label=row.title, zorder=layer)  # fmt: skip
        axes.margins(0.12)
        limits = axes.get_xlim(), axes.get_ylim()
        x, y = np.meshgrid(*(np.linspace(max(low, 1e-3), max(high, 2e-3), 120) for low, high in limits))
        lines = axes.contour(x, y, 2 * x * y / (x + y), levels=7, colors=_LINE, linewidths=0.8, zorder=1)
        axes.clabel(lines, fontsize=7, fmt="%.2f", colors=_INK)
        axes.set(xlabel="identity score", ylabel="prompt score", title=SETS[name], xlim=limits[0], ylim=limits[1])
        _legend(figure, axes)

    return _svg(f"identity against prompt, {SETS[name]}", 5.4, 4.9, draw)


def groups(results: Results, name: str) -> str:
    """Both scores and their harmonic mean by group of prompts."""

    def draw(figure: Figure) -> None:
        rows = _rows(results, name)
        for axes, score in zip(
            figure.subplots(3, 1, sharex=True), ("identity", "prompt", "harmonic mean"), strict=True
        ):
            for k, (row, scores) in enumerate(rows):
                parts = [[s for s in scores if s.group == group] for group in GROUPS]
                found = [g for g, part in enumerate(parts) if part]
                estimates = [estimate(parts[g], score) for g in found]
                x = np.array(found) + (k - (len(rows) - 1) / 2) * 0.8 / len(rows)
                axes.bar(x, [e.value for e in estimates], 0.8 / len(rows), yerr=_whiskers(estimates),
                         color=COLOURS[row.name], ecolor=_INK, error_kw={"lw": 0.7}, label=row.title)  # fmt: skip
            axes.set_ylabel(score)
            axes.grid(axis="y")
        axes.set_xticks(range(len(GROUPS)), GROUPS)
        _legend(figure, axes)
        figure.suptitle(SETS[name], fontsize=10)

    return _svg(f"scores by group of prompts, {SETS[name]}", 7.2, 5.6, draw)


def _legend(figure: Figure, axes: Axes) -> None:
    """One for all of a figure's axes, below them."""
    lines = axes.get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=4, frameon=False, fontsize=7.5, columnspacing=1)


def apart(results: Results) -> str:
    """Share of two-subject pictures whose people each match their own reference."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        rows = _rows(results, "double")[::-1]
        rates = [kept_apart(scores) for _, scores in rows]
        axes.barh([row.title for row, _ in rows], [r.value for r in rates], 0.65, xerr=_whiskers(rates),
                  color=[COLOURS[row.name] for row, _ in rows], ecolor=_INK, error_kw={"lw": 0.9})  # fmt: skip
        axes.axvline(KEPT_APART, color=_INK, lw=1, ls="--")
        axes.set(
            xlim=(0, 1.02),
            xlabel="share of pictures (dashed: what the full method is held to)",
        )
        axes.grid(axis="x")

    return _svg("two people kept apart", 6.4, 2.9, draw)


def bounds(results: Results, row: Row, scores: Sequence[str]) -> str:
    """Heat maps over both stage bounds, one a score and number of subjects; the chosen cell is framed."""
    chosen = results.choices[row.name].parameters if row.name in results.choices else None
    swept = {p: s for p, s in results.sweeps[row.name].items() if p.guidance_scale == row.start.guidance_scale}
    starts, finals = (sorted({getattr(p, bound) for p in swept}) for bound in ("start_merge_step", "final_step"))

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(SETS), len(scores), squeeze=False)
        for line, subjects in zip(panels, (1, 2), strict=True):
            for axes, score in zip(line, scores, strict=True):
                cells = np.full((len(starts), len(finals)), np.nan)
                for p, measured in swept.items():
                    if part := [s for s in measured if s.subjects == subjects]:
                        cells[starts.index(p.start_merge_step), finals.index(p.final_step)] = estimate(part, score).value
                axes.imshow(cells, cmap="viridis", aspect="auto")
                middle = (np.nanmin(cells) + np.nanmax(cells)) / 2
                for (y, x), value in np.ndenumerate(cells):
                    if not np.isnan(value):
                        axes.text(x, y, f"{value:.3f}", ha="center", va="center", fontsize=7,
                                  color="white" if value < middle else "black")  # fmt: skip
                if chosen and chosen.start_merge_step in starts and chosen.final_step in finals:
                    corner = finals.index(chosen.final_step) - 0.5, starts.index(chosen.start_merge_step) - 0.5
                    axes.add_patch(matplotlib.patches.Rectangle(corner, 1, 1, fill=False, ec=COLOURS[FULL], lw=2.2))
                axes.set_xticks(range(len(finals)), finals)
                axes.set_yticks(range(len(starts)), starts)
                axes.set_title(f"{score}, {'one subject' if subjects == 1 else 'two subjects'}")
        figure.suptitle(row.title, fontsize=10)
        for axes in panels[-1]:
            axes.set_xlabel("last fusion step")
        for axes in panels[:, 0]:
            axes.set_ylabel("last scene step")

    return _svg(f"sweep of the stage bounds, {row.title}", 2.9 * len(scores) + 0.4, 4.6, draw)


def curves(results: Results, parameter: str, label: str) -> str:
    """Harmonic mean over one parameter, the others as each row chose them, one and two subjects."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(SETS), sharey=True)
        for axes, subjects in zip(panels, (1, 2), strict=True):
            for row in ROWS:
                if not (line := _line(results, row, parameter)):
                    continue
                parts = {x: [s for s in scores if s.subjects == subjects] for x, scores in line.items()}
                parts = {x: part for x, part in parts.items() if part}
                heights = [estimate(part, "harmonic mean").value for part in parts.values()]
                axes.plot(list(parts), heights, f"-{MARKERS[row.name]}", color=COLOURS[row.name],
                          ms=5, lw=1.3, label=row.title)  # fmt: skip
            axes.set(xlabel=label, title="one subject" if subjects == 1 else "two subjects")
            axes.grid()
        panels[0].set_ylabel("harmonic mean")
        _legend(figure, panels[0])

    return _svg(f"sweep of {label}", 7.2, 3.3, draw)


def _line(results: Results, row: Row, parameter: str) -> dict[float, list[Score]]:
    """Value of one parameter → scores, where everything else is as around the sweep: the most points
    that differ in that parameter alone."""
    if not any(parameter in sweep for sweep in row.sweeps):
        return {}
    lines: dict[str, dict[float, list[Score]]] = {}
    for point, scores in results.sweeps[row.name].items():
        rest = str(Parameters(**point.given() | {parameter: 0}))
        lines.setdefault(rest, {})[getattr(point, parameter)] = scores
    return dict(sorted(max(lines.values(), key=len, default={}).items()))
