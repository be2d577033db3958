"""docs/report/index.html and the model card's table, from what was measured."""

import base64
from pathlib import Path

import jinja2
from markupsafe import Markup

from toolkit.evaluate.statistics import LEVEL, RESAMPLES, Estimate, is_better
from toolkit.report import plots
from toolkit.report.agreement import PAIRS_A_SET
from toolkit.report.choice import RULE
from toolkit.report.claims import claims, gaps_to_full, kept_apart
from toolkit.report.examples import PAIRS_A_GROUP
from toolkit.report.results import Results
from toolkit.report.rows import FULL, ROWS, SETS, STEPS, Parameters
from toolkit.report.scores import estimate

SCORES = ("identity", "prompt", "harmonic mean")


def page(results: Results, weights: str) -> str:
    """One HTML file with everything in it."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"range": _range, "parameters": _parameters}
    return templates.get_template("page.html.j2").render(
        results=results,
        weights=weights,
        claims=claims(results),
        tables={name: table(results, name) for name in SETS},
        sets=SETS,
        rows=ROWS,
        examples={name: base64.b64encode(found.webp).decode() for name, found in results.examples.items()},
        plots=_plots(results),
        hours=[(row, *(seconds / 60 for seconds in results.seconds(row.name))) for row in ROWS],
        agreement_minutes=sum(gap.seconds for gap in results.agreement) / 60,
        rule=RULE,
        steps=STEPS,
        level=LEVEL,
        resamples=RESAMPLES,
        pairs_a_group=PAIRS_A_GROUP,
        agreement_pairs=PAIRS_A_SET * len(SETS),
    )


def table(results: Results, name: str) -> list[dict]:
    """A line a measured row of one set: `row`, an Estimate of each score and of the gap by which the
    full method leads (None in its own line), the rate of people kept apart (two subjects)."""
    rows = {row.name: results.table[row.name, name] for row in ROWS if (row.name, name) in results.table}
    gaps = gaps_to_full(rows)
    lines = [
        {"row": row, **{name: estimate(rows[row.name], name) for name in SCORES}, "gap": gaps.get(row.name),
         "apart": kept_apart(rows[row.name]) if name == "double" else None,
         "parameters": results.choices[row.name].parameters}
        for row in ROWS if row.name in rows
    ]  # fmt: skip
    for score in SCORES:
        best = max((line[score].value for line in lines), default=None)
        for line in lines:
            line[f"best {score}"] = line[score].value == best
    for line in lines:
        line["behind"] = line["gap"] is not None and is_better(line["gap"])
    return lines


def _plots(results: Results) -> dict[str, list[Markup]]:
    """By section; a plot for which nothing was measured yet is left out."""
    measured = [name for name in SETS if any(key[1] == name for key in results.table)]
    swept = [row for row in ROWS if results.sweeps.get(row.name)]
    staged = [row for row in swept if any("final_step" in sweep for sweep in row.sweeps)]
    drawn = {
        "trade-off": [plots.trade_off(results, name) for name in measured],
        "groups": [plots.groups(results, name) for name in measured],
        "apart": [plots.apart(results)] if "double" in measured else [],
        "bounds": [plots.bounds(results, row, SCORES if row.name == FULL else SCORES[-1:]) for row in staged],
        "guidance": [plots.curves(results, "guidance_scale", "guidance")] if swept else [],
        "alpha": [plots.curves(results, "alpha", "α")] if any(r.start.alpha is not None for r in swept) else [],
    }
    return {section: [Markup(svg) for svg in svgs] for section, svgs in drawn.items()}


def _range(found: Estimate, digits: int = 3) -> str:
    return f"[{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _parameters(parameters: Parameters) -> str:
    """guidance 3, stages 5/15, α 0.6"""
    words = [f"guidance {parameters.guidance_scale:g}"]
    if parameters.alpha is not None:
        words.append(f"α {parameters.alpha:g}")
    elif parameters.final_step not in (None, -1):
        words.append(f"bounds {parameters.start_merge_step}/{parameters.final_step}")
    return ", ".join(words)


def markdown(results: Results) -> str:
    """The tables in short, for the model card."""
    lines = []
    for name, title in SETS.items():
        measured = table(results, name)
        if not measured:
            continue
        pairs = measured[0]["identity"].count
        apart = name == "double"
        lines += [
            f"| {title}, {pairs} held-out pairs | identity | prompt | harmonic mean |"
            + (" kept apart |" if apart else ""),
            "|---|--:|--:|--:|" + ("--:|" if apart else ""),
        ]
        for line in measured:
            cells = [f"{line[score].value:.3f} ± {line[score].std:.3f}" for score in SCORES[:2]]
            cells.append(f"{line['harmonic mean'].value:.3f} {_range(line['harmonic mean'])}")
            cells = [f"**{c}**" if line[f"best {s}"] else c for c, s in zip(cells, SCORES, strict=True)]
            if apart:
                cells.append(f"{line['apart'].value:.0%}")
            lines.append(f"| {line['row'].title} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["| held to | measured | |", "|---|---|---|"]
    signs = {True: "holds", False: "does not hold", None: "not measured"}
    lines += [f"| {claim.text} | {claim.measured} | {signs[claim.holds]} |" for claim in claims(results)]
    return "\n".join(lines)
