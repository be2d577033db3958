"""Asks a running gateway for 20 held-out people in 5 sentences each, draws the sheet and scores it.

People, prompts and seeds are fixed in toolkit.evaluate.pairs; nothing is chosen afterwards.
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from toolkit.card import write_part
from toolkit.data.held_out import SHEET
from toolkit.evaluate.client import edit
from toolkit.evaluate.examples import NAMES, identity_of
from toolkit.evaluate.judges import CLASSES, load_judge
from toolkit.evaluate.pairs import Pair, sheet_pairs
from toolkit.evaluate.scores import BOTH_WIN, TARGETS, both_win, judge_pictures

CELL = 128
HERO_PROMPTS = (
    "a {noun} <|image|> reading in the snow at night",
    "a {noun} <|image|> at the beach at sunset",
    "a {noun} <|image|> holding a cup in the forest",
    "a {noun} <|image|> in the city, wearing a yellow shirt",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="of the gateway")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/sheet.png"))
    parser.add_argument("--json", type=Path, default=Path("docs/pictures/sheet.json"))
    parser.add_argument("--hero", type=Path, help="also write the README's picture of the sample faces")
    parser.add_argument("--card", type=Path, default=Path("model_repository/mini/README.md"),
                        help="model card whose scores are rewritten (default: %(default)s)")  # fmt: skip
    parser.add_argument("--parallel", type=int, default=2, help="requests at a time")


def run(args: argparse.Namespace) -> int:
    pairs = sheet_pairs()
    with ThreadPoolExecutor(args.parallel) as pool:
        answers = list(tqdm(pool.map(lambda pair: edit(args.url, pair), pairs), total=len(pairs), desc="pictures"))
    images = np.stack([image for image, _ in answers])
    report = score(pairs, images, [details for _, details in answers])
    for path in (args.out, args.json):
        path.parent.mkdir(parents=True, exist_ok=True)
    draw(pairs, images).save(args.out, optimize=True)
    args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(report))
    if not write_part(args.card, "scores", table(report)):
        print(f"{args.card} has no <!-- scores --> to write the table behind", file=sys.stderr)
    if args.hero:
        hero(args.url).save(args.hero, optimize=True)
    return 0 if report["passed"] else 1


def hero(url: str, folder: Path = Path("examples")) -> Image.Image:
    """The sample faces, each followed by its pictures of HERO_PROMPTS with seeds 1, 2, 3 ..."""
    cells = []
    for name in NAMES:
        identity, _ = identity_of(name)
        face = Image.open(folder / f"{name}.png").convert("RGB")
        cells.append(face.resize((CELL, CELL), Image.Resampling.LANCZOS))
        for seed, prompt in enumerate(HERO_PROMPTS, 1):
            text = prompt.format(noun=identity.noun)
            pair = Pair(name, name, (identity,), (np.asarray(face),), text, "", {}, seed)
            cells.append(Image.fromarray(edit(url, pair)[0]))
    columns = 2 * (len(HERO_PROMPTS) + 1)
    picture = Image.new("RGB", (columns * CELL, -(-len(cells) // columns) * CELL), "white")
    for k, cell in enumerate(cells):
        picture.paste(cell, (k % columns * CELL, k // columns * CELL))
    return picture


def score(pairs: list[Pair], images: np.ndarray, details: list[dict]) -> dict:
    """Everything the sheet claims, from the pictures and the answers' details."""
    accuracy, seen = judge_pictures(load_judge(), pairs, images)
    fusions = [d["images"][0]["fusion"] for d in details]
    shares = [share for fusion in fusions for share in fusion["sdm_share"]]
    by_step: dict[int, list[float]] = {}
    for fusion in fusions:
        for step, share in zip(fusion["steps"], fusion["sdm_share"], strict=True):
            by_step.setdefault(step, []).append(share)
    fused = both_win(shares)
    parameters = {k: v for k, v in details[0]["parameters"].items() if k not in ("prompt", "seed")}
    return {
        "accuracy": accuracy,
        "targets": TARGETS,
        "both_models_win": {"share_of_fusion_steps": fused, "pixels_at_least": BOTH_WIN, "target": 0.5},
        "sdm_share_by_step": {step: round(float(np.mean(v)), 4) for step, v in sorted(by_step.items())},
        "passed": all(accuracy[key] >= TARGETS[key] for key in TARGETS) and fused >= 0.5,
        "parameters": parameters,
        "pictures": [
            {"prompt": pair.prompt, "seed": pair.seed, "expected": pair.expected, "read": s,
             "sdm_share": [round(v, 4) for v in fusion["sdm_share"]]}
            for pair, s, fusion in zip(pairs, seen, fusions, strict=True)
        ],
    }  # fmt: skip


def table(report: dict) -> str:
    """The scores as Markdown."""
    lines = ["| read by judges | pictures right | target |", "|---|--:|--:|"]
    for key in CLASSES:
        lines.append(f"| {key.replace('_', ' ')} | {report['accuracy'][key]:.0%} | {TARGETS[key]:.0%} |")
    fused = report["both_models_win"]["share_of_fusion_steps"]
    lines.append(f"| fusion steps in which both models win ≥ {BOTH_WIN:.0%} of the pixels | {fused:.0%} | 50% |")
    return "\n".join(lines)


def draw(pairs: list[Pair], images: np.ndarray, blocks: int = 2) -> Image.Image:
    """Reference and the five pictures a row; people in two blocks side by side."""
    columns = len(SHEET) + 1
    people = len(pairs) // len(SHEET)
    rows = -(-people // blocks)
    head, gap = 40, 16
    width = columns * CELL
    sheet = Image.new("RGB", (blocks * width + (blocks - 1) * gap, head + rows * CELL), "white")
    pen = ImageDraw.Draw(sheet)
    for block in range(blocks):
        left = block * (width + gap)
        pen.text((left + 4, 12), "reference", fill="black")
        for k, prompt in enumerate(SHEET):
            words, line, lines = prompt.text.replace("{}", "..").split(), "", []
            for word in words:
                if len(line) + len(word) > 19:
                    lines.append(line)
                    line = ""
                line = f"{line} {word}".strip()
            for number, text in enumerate([*lines, line]):
                pen.text((left + (k + 1) * CELL + 4, 1 + 12 * number), text, fill="black")
    for person in range(people):
        x, y = person // rows * (width + gap), head + person % rows * CELL
        first = person * len(SHEET)
        sheet.paste(Image.fromarray(pairs[first].references[0]).resize((CELL, CELL)), (x, y))
        for k in range(len(SHEET)):
            cell = Image.fromarray(images[first + k])
            sheet.paste(cell if cell.size == (CELL, CELL) else cell.resize((CELL, CELL)), (x + (k + 1) * CELL, y))
    return sheet
