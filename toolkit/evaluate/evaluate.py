"""Scores a running gateway, or a folder of pictures from any other system, on the held-out pairs.

Identity preservation: cosine of face embeddings, faces of the picture matched to the references;
of two people the worse one counts. Prompt consistency: cosine of picture and sentence. Mean,
standard deviation and 95 % bootstrap interval, for all pairs and for each prompt group, with one
subject and with two. Writes one CSV line a pair and prints the table.

A gateway's pictures are kept in --out, and only those that are not there yet are asked for: use a
folder of its own for every model and every setting. --list-pairs writes prompts, seeds and
references for another system, which then puts <pair name>.png into one folder for --pictures.
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from toolkit.data.held_out import GROUPS
from toolkit.evaluate import statistics
from toolkit.evaluate.client import GatewayError, collect, read_pictures, text_only
from toolkit.evaluate.metrics import METRICS, Metrics, load_metrics
from toolkit.evaluate.pair_scores import COLUMNS, PairScore
from toolkit.evaluate.pairs import Pair, pair_set
from toolkit.evaluate.statistics import Estimate

SETS = ("single", "double", "validation")
_BATCH = 32


@dataclass(frozen=True)
class Row:
    """One line of the table; the last two are shares of pictures, kept_apart None for one subject."""

    title: str
    identity: Estimate
    prompt: Estimate
    harmonic: Estimate
    all_faces: float
    kept_apart: float | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--url", help="of a running gateway, such as http://127.0.0.1:8080")
    source.add_argument("--pictures", type=Path, help="folder that holds <pair name>.png for every pair")
    source.add_argument("--list-pairs", type=Path, metavar="DIR", help="only write the pairs: pairs.jsonl, references as PNG")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["single", "double"], help="default: single double")
    parser.add_argument("--limit", type=int, help="only the first pairs of each set")
    parser.add_argument("--out", type=Path, help="folder for a gateway's pictures; required with --url")
    parser.add_argument("--csv", type=Path, help="scores, one line a pair; default: scores.csv beside the pictures")
    parser.add_argument("--field", action="append", default=[], metavar="NAME=VALUE", help="field of every request; repeat it")
    parser.add_argument("--text-only", action="store_true", help="ask for prompts without their subjects")
    parser.add_argument("--parallel", type=int, default=2, help="requests at a time")
    parser.add_argument("--metrics", choices=METRICS, default="mini", help="mini: drawn world, field: photographs")
    parser.add_argument("--weights", type=Path, help="of the metrics: a file (mini) or a folder (field)")


def run(args: argparse.Namespace) -> int:
    pairs = [pair for name in args.sets for pair in pair_set(name)[: args.limit]]
    if args.list_pairs:
        write_pairs(pairs, args.list_pairs)
        return 0
    try:
        fields = parse_fields(args.field)
        folder = args.pictures or args.out
        if folder is None:
            raise ValueError("--url needs --out, the folder that keeps the gateway's pictures")
        metrics = load_metrics(args.metrics, args.weights)
        if args.url:
            asked = [text_only(pair) for pair in pairs] if args.text_only else pairs
            collect(args.url, asked, folder, fields, args.parallel)
        scores = score_pairs(metrics, pairs, read_pictures(folder, pairs))
    except (GatewayError, FileNotFoundError, ValueError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    write_scores(args.csv or folder / "scores.csv", scores)
    print(table(summarise(scores)))
    return 0


def parse_fields(texts: Sequence[str]) -> dict[str, str | int | float]:
    """['guidance_scale=3'] to {'guidance_scale': 3}; the pair's own fields cannot be set."""
    fields = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ValueError(f"--field {text!r} is not of the form NAME=VALUE")
        if name in ("prompt", "seed", "image", "n", "stream", "output_format", "response_format"):
            raise ValueError(f"--field cannot set {name!r}, which belongs to the pair or to the answer's form")
        try:
            fields[name] = json.loads(value)
        except ValueError:
            fields[name] = value
    return fields


def score_pairs(metrics: Metrics, pairs: Sequence[Pair], images: Sequence[np.ndarray]) -> list[PairScore]:
    """Scores one picture a pair."""
    consistency: list[float] = []
    for start in range(0, len(pairs), _BATCH):
        part = slice(start, start + _BATCH)
        consistency += metrics.prompt(images[part], [pair.prompt for pair in pairs[part]]).tolist()
    scores = []
    for pair, image, cosine in zip(tqdm(pairs, desc="scores"), images, consistency, strict=True):
        match = metrics.identity(image, pair.references)
        scores.append(PairScore(pair.name, pair.person, pair.group, pair.seed, match, cosine))
    return scores


def summarise(scores: Sequence[PairScore]) -> list[Row]:
    """All pairs and each prompt group, for every number of subjects."""
    rows = []
    for subjects in sorted({score.subjects for score in scores}):
        of_kind = [score for score in scores if score.subjects == subjects]
        title = "one subject" if subjects == 1 else f"{subjects} subjects"
        rows.append(row(title, of_kind))
        rows += [row(f"{title}, {g}", part) for g in GROUPS if (part := [s for s in of_kind if s.group == g])]
    return rows


def row(title: str, scores: Sequence[PairScore]) -> Row:
    """The statistics of some pairs."""
    identity = [score.identity for score in scores]
    prompt = [score.prompt for score in scores]
    people = [score.person for score in scores]
    several = [score for score in scores if score.subjects == 2]
    return Row(
        title,
        statistics.mean(identity, people),
        statistics.mean(prompt, people),
        statistics.harmonic_mean(identity, prompt, people),
        float(np.mean([score.match.faces >= score.subjects for score in scores])),
        float(np.mean([score.match.kept_apart for score in several])) if several else None,
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown: mean ± standard deviation [95 % interval]."""
    lines = [
        "| pairs | n | identity | prompt | harmonic mean | all faces found | own before swapped |",
        "|---|--:|---|---|---|--:|--:|",
    ]
    for r in rows:
        apart = "" if r.kept_apart is None else f"{r.kept_apart:.0%}"
        lines.append(
            f"| {r.title} | {r.identity.count} | {r.identity} | {r.prompt} | {r.harmonic} | {r.all_faces:.0%} | {apart} |"
        )
    return "\n".join(lines)


def write_scores(path: Path, scores: Sequence[PairScore]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(COLUMNS)
        lines.writerows(score.cells() for score in scores)


def write_pairs(pairs: Sequence[Pair], folder: Path) -> None:
    """pairs.jsonl (name, prompt, seed, group, references) and every reference as PNG, for other systems."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for pair in tqdm(pairs, desc="pairs"):
            names = [f"{pair.name}-reference-{k}.png" for k in range(1, len(pair.references) + 1)]
            for name, reference in zip(names, pair.references, strict=True):
                Image.fromarray(reference).save(folder / name)
            entry = {"name": pair.name, "prompt": pair.prompt, "seed": pair.seed, "group": pair.group, "references": names}
            file.write(json.dumps(entry) + "\n")
